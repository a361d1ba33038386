"""Small images decoded once: a data set whose pixels lie ready in one memory-mapped array.

Worth it where images are small and all of one size (emoji, icons, thumbnails): reading a row of the array costs a hundredth of
decoding a file. Letters: N rows, H W pixels, C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.cache import cache_folder
from diptych.core.config import config_hash
from diptych.core.errors import DataError
from diptych.core.files import atomic_folder, write_json
from diptych.core.image import ArrayImage, ImageSource
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.media.images import Images, Objects

FORMAT = 1


class DecodedImages:
    """The rows of ``pixels.npy`` as image sources; rows that could not be decoded stay as they were. Can be pickled: a worker
    opens the file for itself."""

    def __init__(self, file: Path, rows: Sequence[int], pool: Pool) -> None:
        """`rows[r]` is the place of row r in the array, or -1: then the image is that of `pool`, whatever it is."""
        self.file, self.rows, self.pool = file, list(rows), pool

    @cached_property
    def pixels(self) -> npt.NDArray[np.uint8]:
        pixels_NHWC: npt.NDArray[np.uint8] = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return pixels_NHWC

    def source(self, row: int) -> ImageSource | None:
        if self.rows[row] < 0:
            return self.pool[row].image
        return ArrayImage(self.pixels[self.rows[row]], f"{self.file}:{row}")

    def identity(self, row: int) -> str:
        """That of the encoded image, so that a cached pool keeps its fingerprint."""
        return Objects([self.pool.own_image(row)]).identity(0)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "rows": self.rows, "pool": self.pool}


def decoded(pool: Pool, side: int, folder: Path | None = None) -> Pool:
    """The same samples with decoded images: the pixels that `decode(image, min_side=side)` gives, so batches do not change.

    Decodes once and keeps the array in `folder` (default: the user's cache folder) under a name made of the pool's fingerprint,
    its order and `side`; later calls only open it. A bad image stays undecoded and fails when it is used, as without a cache. Raises
    `DataError` when decoded sizes differ: such images have no common array.
    """
    root = folder or cache_folder() / "decoded"
    rows = hashlib.sha256("\n".join(pool.uids).encode()).hexdigest()
    place = Path(root, config_hash({"format": FORMAT, "data": pool.fingerprint, "rows": rows, "side": side}))
    if not (place / "index.json").is_file():
        _write(pool, side, place)
    index = json.loads((place / "index.json").read_text(encoding="utf-8"))
    images: Images = DecodedImages(place / "pixels.npy", index["rows"], pool)
    return pool.with_images(images)


def _write(pool: Pool, side: int, place: Path) -> None:
    rows: list[int] = []
    count = 0
    first: tuple[str, tuple[int, ...]] | None = None
    with atomic_folder(place) as work:
        with (work / "pixels.raw").open("wb") as file:
            for row in range(len(pool)):
                sample = pool[row]
                pixels_HWC = _decoded(sample.image, side)
                rows.append(-1 if pixels_HWC is None else count)
                if pixels_HWC is None:
                    continue
                first = first or (sample.uid, pixels_HWC.shape)
                if pixels_HWC.shape != first[1]:
                    sizes = f"'{first[0]}' is {_size(first[1])} pixels but '{sample.uid}' is {_size(pixels_HWC.shape)}"
                    raise DataError(f"cannot be cached: {sizes}", file=pool.name, row=row, expected="images of one size")
                file.write(np.ascontiguousarray(pixels_HWC).data)
                count += 1
        _with_header(work, (count, *(first[1] if first else (side, side, 3))))
        write_json(work / "index.json", {"format": FORMAT, "data": pool.fingerprint, "side": side, "rows": rows})


def _decoded(image: ImageSource | None, side: int) -> npt.NDArray[np.uint8] | None:
    if image is None:
        return None
    try:
        return decode(image, min_side=side)
    except DataError:
        return None  # the stream reports it when the sample is used


def _with_header(work: Path, shape: tuple[int, ...]) -> None:
    """``pixels.raw`` becomes ``pixels.npy``: the shape is known only at the end."""
    if not shape[0]:
        np.save(work / "pixels.npy", np.zeros(shape, np.uint8))
    else:
        raw = np.memmap(work / "pixels.raw", np.uint8, "r", shape=shape)
        array = np.lib.format.open_memmap(work / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, shape[0], 1024):
            array[start : start + 1024] = raw[start : start + 1024]
        array.flush()
    (work / "pixels.raw").unlink()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
