"""Writing one tar shard: each sample's image and JSON side by side, sorted by key, the same bytes for the same samples."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.quarantine import Bad
from diptych.data.shards.tar_index import INDEX_SCHEMA, index_path, write_index

EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp", "tiff": "tif"}
WEBP_LIMIT = 16_383  # pixels a side
CHUNK = 64
"""Images in flight at once: bounds the memory of a build."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The manifest rows of one shard, and what could not be stored."""

    rows: pa.Table
    bad: list[Bad]


@dataclass(frozen=True, slots=True)
class Checked:
    """An image that has been read and decoded once."""

    data: bytes
    format: str
    width: int
    height: int
    sha256: str


class ShardWriter:
    """A tar file that appears under its name only when it is whole. Remembers where every member lies."""

    SCHEMA = pa.schema(
        [
            ("uid", pa.string()),
            ("shard", pa.string()),
            ("image_offset", pa.int64()),
            ("image_size", pa.int64()),
            ("image_format", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sha256", pa.string()),
            ("status", pa.string()),
        ]
    )

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: list[tuple[str, int, int]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, self._name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        self._file = os.fdopen(handle, "wb")

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its first byte in the tar."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        write_bytes(self._file, info.tobuf(tarfile.PAX_FORMAT, "utf-8"))
        offset = self._file.tell()
        write_bytes(self._file, data)
        write_bytes(self._file, b"\0" * (-len(data) % 512))
        self.members.append((name, offset, len(data)))
        return offset

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                write_bytes(self._file, b"\0" * 1024)
                self._file.flush()
                os.fsync(self._file.fileno())
                os.chmod(self._name, 0o644)
                os.replace(self._name, self.path)
        finally:
            self._file.close()
            Path(self._name).unlink(missing_ok=True)


def write_bytes(file: IO[bytes], data: bytes) -> None:
    """The one place where a shard's bytes reach the disk."""
    file.write(data)


def store_shard(pool: Pool, rows: list[int], path: Path, *, check: bool, tick: Callable[[], None] = lambda: None) -> Stored:
    """Write the samples of these rows to `path` and its index beside it; what cannot be used comes back as bad.

    `tick` is called after each sample."""
    records: list[dict[str, Any]] = []
    bad: list[Bad] = []
    with ShardWriter(path) as writer:
        for sample, image in _checked(pool, rows, check):
            tick()
            if isinstance(image, Bad):
                bad.append(image)
                continue
            record = {"uid": sample.uid, "shard": path.name, "image_offset": -1, "image_size": 0, "status": "no image"}
            if image is not None:
                offset = writer.add(f"{sample.uid}.{EXTENSIONS.get(image.format, image.format)}", image.data)
                record |= {
                    "image_offset": offset,
                    "image_size": len(image.data),
                    "image_format": image.format,
                    "width": image.width,
                    "height": image.height,
                    "sha256": image.sha256,
                    "status": "ok" if check else "unchecked",
                }
            writer.add(f"{sample.uid}.json", _sidecar(sample, record))
            records.append(record)
    names, offsets, sizes = zip(*writer.members, strict=True) if writer.members else ((), (), ())
    write_index(index_path(path), pa.table([list(names), list(offsets), list(sizes)], schema=INDEX_SCHEMA), path, [])
    return Stored(pa.Table.from_pylist(records, ShardWriter.SCHEMA), bad)


def _checked(pool: Pool, rows: list[int], check: bool) -> Iterator[tuple[Sample, Checked | Bad | None]]:
    """Samples in order with their image read and decoded; decoding runs beside in threads (the decoders release the lock)."""

    def one(row: int) -> tuple[Sample, Checked | Bad | None]:
        sample = pool[row]
        return sample, check_image(sample, decode_fully=check)

    with ThreadPoolExecutor(
        max_workers=min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
    ) as threads:
        for start in range(0, len(rows), CHUNK):
            yield from threads.map(one, rows[start : start + CHUNK])


def check_image(sample: Sample, *, decode_fully: bool = True) -> Checked | Bad | None:
    """Read an image, look at its header and decode it in full; what fails comes back as a `Bad` row. None: there is no image."""
    from diptych.data.media.decode import decode, probe

    if sample.image is None:
        return None
    name = sample.image.name
    try:
        if isinstance(sample.image, ArrayImage):
            decode(sample.image)  # checks the array
            data = _encoded(sample.image)
        else:
            data = sample.image.read()
            if decode_fully:
                decode(BytesImage(data, name), exact=True)
        info = probe(data, name=name)
    except OSError as error:
        return Bad(sample.uid, "read", error.strerror or str(error), name)
    except DataError as error:
        return Bad(sample.uid, "image", error.problem, name)
    return Checked(data, info.format.lower(), info.width, info.height, hashlib.sha256(data).hexdigest())


def _encoded(image: ArrayImage) -> bytes:
    """Pixels as lossless WebP, or as PNG where WebP's format ends."""
    from diptych.data.media.decode import encode_png, encode_webp

    if max(image.pixels_HWC.shape[:2]) > WEBP_LIMIT:
        return encode_png(image.pixels_HWC)
    return encode_webp(image.pixels_HWC, lossless=True)


def _sidecar(sample: Sample, record: dict[str, Any]) -> bytes:
    """The JSON member, for readers other than ours: "caption" is where they look. Our own reader takes texts from the tables."""
    positives = sample.positives()
    plain: dict[str, Any] = {"uid": sample.uid, "caption": positives[0].string if positives else ""}
    plain["texts"] = [asdict(text) for text in sample.texts]
    for name in ("group", "licence", "source"):
        if value := getattr(sample, name):
            plain[name] = value
    for name in ("width", "height", "sha256"):
        if name in record:
            plain[name] = record[name]
    if sample.regions:
        plain["regions"] = [_region(region) for region in sample.regions]
    if sample.relations:
        plain["relations"] = [asdict(relation) for relation in sample.relations]
    return json.dumps(plain, ensure_ascii=False).encode()


def _region(region: Region) -> dict[str, Any]:
    return {key: value for key, value in asdict(region).items() if value not in (None, ())}
