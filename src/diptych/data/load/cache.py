"""Cache of decoded small images and media in one memory-mapped file.

Worth it where they are small and all of one size (emoji, icons, clips of a few frames, clouds of equal size): reading a row of the
array costs a hundredth of decoding a file. Letters: N rows, H W pixels, C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.config import config_hash
from diptych.core.disk.cache import cache_folder
from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.media.images import ImageObjects, Images
from diptych.data.media.table import Media

FORMAT = 1
Array = npt.NDArray[Any]


class DecodedImages:
    """The rows of ``pixels.npy`` as image sources; rows that could not be decoded stay as they were. Can be pickled: a worker
    opens the file for itself."""

    def __init__(self, file: Path, rows: Sequence[int], pool: Pool) -> None:
        """`rows[r]` is the index of row r in the array, or -1: then the image is read from `pool`."""
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
        return ImageObjects([self.pool.own_image(row)]).identity(0)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "rows": self.rows, "pool": self.pool}


def decoded(pool: Pool, side: int, folder: Path | None = None) -> Pool:
    """The same samples with decoded images: the pixels that `decode(image, min_side=side)` gives, so batches do not change.

    Decodes once and keeps the array in `folder` (default: the user's cache folder) under a name made of the pool's fingerprint,
    its order and `side`; later calls only open it. A bad image stays undecoded and fails when it is used, as without a cache. Raises
    `DataError` when decoded sizes differ: such images have no common array.
    """
    cache_folder = _place(pool, folder, {"side": side})
    if not (cache_folder / "index.json").is_file():
        mark = {"format": FORMAT, "data": pool.fingerprint, "side": side}
        _write(pool, cache_folder, lambda sample: _decoded(sample.image, side), (side, side, 3), mark)
    index = json.loads((cache_folder / "index.json").read_text(encoding="utf-8"))
    images: Images = DecodedImages(cache_folder / "pixels.npy", index["rows"], pool)
    return pool.with_images(images)


class DecodedMedia:
    """One medium of a pool as the rows of an array; rows that could not be decoded, and other media, stay as they were."""

    def __init__(self, file: Path, rows: Sequence[int], name: str, pool: Pool) -> None:
        """`rows[r]` is the place of row r in the array, or -1."""
        self.file, self.rows, self.name, self.pool = file, list(rows), name, pool

    @cached_property
    def array(self) -> Array:
        array: Array = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return array

    def of(self, row: int) -> dict[str, MediaItem]:
        media = self.pool.media(row)
        if self.rows[row] >= 0:
            ready = ArraySource(self.array[self.rows[row]], f"{self.file}:{row}")
            media[self.name] = MediaItem(media[self.name].medium, (ready,))
        return media

    def identity(self, row: int) -> list[Any]:
        """That of the encoded media, so that a cached pool keeps its fingerprint."""
        return self.pool.media_identity(row)

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "rows": self.rows, "name": self.name, "pool": self.pool}


def decoded_media(pool: Pool, name: str, folder: Path | None = None, **options: Any) -> Pool:
    """The same samples with the medium `name` decoded to one array each, as ``sample.media[name].decode(**options)`` gives it
    (``decoded_media(pool, "clip", frames=8, min_side=64)``). Kept like `decoded`, under a name that `options` are part of.

    Raises `DataError` when the arrays differ in shape or type, or when the medium is not decoded to an array (several pictures).
    """
    cache_folder = _place(pool, folder, {"name": name, "options": options})
    if not (cache_folder / "index.json").is_file():

        def content(sample: Sample) -> Array | None:
            if name not in sample.media:
                return None
            try:
                array = sample.media[name].decode(**options)
            except DataError:
                return None  # the stream reports it when the sample is used
            if not isinstance(array, np.ndarray):
                raise DataError(
                    f"a medium '{sample.media[name].medium}' is not a single array",
                    file=pool.name,
                    expected="a clip, cloud, volume or raster",
                )
            return array

        _write(pool, cache_folder, content, (0,), {"format": FORMAT, "data": pool.fingerprint, "name": name})
    index = json.loads((cache_folder / "index.json").read_text(encoding="utf-8"))
    media: Media = DecodedMedia(cache_folder / "pixels.npy", index["rows"], name, pool)
    return pool.with_media(media)


def _place(pool: Pool, folder: Path | None, settings: dict[str, Any]) -> Path:
    """Cache folder of this pool in this order."""
    rows = hashlib.sha256("\n".join(pool.uids).encode()).hexdigest()
    key = config_hash({"format": FORMAT, "data": pool.fingerprint, "rows": rows, **settings})
    return Path(folder or cache_folder() / "decoded", key)


def _write(
    pool: Pool, cache_folder: Path, content: Callable[[Sample], Array | None], empty: tuple[int, ...], mark: dict[str, Any]
) -> None:
    """One array of what `content` gives for each sample, and an index of its rows. `empty` is the shape of a row where none is."""
    rows: list[int] = []
    count = 0
    first: tuple[str, Array] | None = None
    with atomic_folder(cache_folder) as work:
        with (work / "pixels.raw").open("wb") as file:
            for row in range(len(pool)):
                sample = pool[row]
                array = content(sample)
                rows.append(-1 if array is None else count)
                if array is None:
                    continue
                first = first or (sample.uid, array)
                if (array.shape, array.dtype) != (first[1].shape, first[1].dtype):
                    sizes = f"'{first[0]}' is {_size(first[1])} but '{sample.uid}' is {_size(array)}"
                    raise DataError(f"cannot be cached: {sizes}", file=pool.name, row=row, expected="all of one size")
                file.write(np.ascontiguousarray(array).data)
                count += 1
        _with_header(work, (count, *(first[1].shape if first else empty)), first[1].dtype if first else np.dtype(np.uint8))
        write_json(work / "index.json", {**mark, "rows": rows})


def _decoded(image: ImageSource | None, side: int) -> npt.NDArray[np.uint8] | None:
    if image is None:
        return None
    try:
        return decode(image, min_side=side)
    except DataError:
        return None  # the stream reports it when the sample is used


def _with_header(work: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """``pixels.raw`` becomes ``pixels.npy``: the shape is known only at the end."""
    if not shape[0]:
        np.save(work / "pixels.npy", np.zeros(shape, dtype))
    else:
        raw = np.memmap(work / "pixels.raw", dtype, "r", shape=shape)
        array = np.lib.format.open_memmap(work / "pixels.npy", mode="w+", dtype=dtype, shape=shape)
        for start in range(0, shape[0], 1024):
            array[start : start + 1024] = raw[start : start + 1024]
        array.flush()
    (work / "pixels.raw").unlink()


def _size(array: Array) -> str:
    if array.dtype == np.uint8 and array.ndim == 3:
        return f"{array.shape[1]} x {array.shape[0]} pixels"
    return f"{array.dtype} {list(array.shape)}"
