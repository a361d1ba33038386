"""Writing one tar shard: each sample's image, media and JSON side by side, sorted by key, the same bytes for the same samples."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from diptych.core.disk.files import atomic_file
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, BytesImage, content_untold
from diptych.core.machine import usable_cores
from diptych.core.media import MediaFacts, MediaItem, medium_of
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode, probe
from diptych.data.media.encoded import in_memory
from diptych.data.media.picture import ENDINGS, encoded_picture, stored_format
from diptych.data.media.table import MEDIA_SCHEMA, member_label
from diptych.data.quarantine import QuarantineEntry
from diptych.data.shards.tar_index import INDEX_SCHEMA, index_path, write_index
from diptych.data.web.blur import boxes_of, with_blurred_boxes

CHUNK, FEW = 64, 8
"""Samples in flight at once: bounds the memory of a build. Few where there are other media, which are larger."""
NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ShardRecords:
    """The manifest rows of one shard, what could not be stored, and the rows of the table of media (`MEDIA_SCHEMA`)."""

    rows: pa.Table
    bad: list[QuarantineEntry]
    media: pa.Table = field(default_factory=MEDIA_SCHEMA.empty_table)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image that has been read and decoded once."""

    data: bytes
    format: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EncodedMedium:
    """A medium that has been read and decoded once: the bytes of every part and the ending of its file. `facts` None: not decoded."""

    name: str
    medium: str
    parts: tuple[tuple[bytes, str], ...]
    facts: MediaFacts | None


class ShardWriter:
    """A tar file that appears under its name only when complete; `members` has name, offset and size of each."""

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
        self._stack = ExitStack()
        self._file = self._stack.enter_context(atomic_file(path))

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
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            write_bytes(self._file, b"\0" * 1024)


def write_bytes(file: IO[bytes], data: bytes) -> None:
    """The one place where a shard's bytes reach the disk."""
    file.write(data)


def store_shard(
    pool: Pool, rows: list[int], path: Path, *, check: bool, blur: str = "", tick: Callable[[], None] = lambda: None
) -> ShardRecords:
    """Write the samples of these rows to `path` and its index beside it; what cannot be used comes back as bad.

    `blur` is a column of boxes that are blurred in the images (`data.web.blur`).
    `tick` is called after each sample."""
    records: list[dict[str, Any]] = []
    media: list[dict[str, Any]] = []
    bad: list[QuarantineEntry] = []
    status = "ok" if check else "unchecked"
    with ShardWriter(path) as writer:
        for sample, checked in _check_samples(pool, rows, check, blur):
            tick()
            if isinstance(checked, QuarantineEntry):
                bad.append(checked)
                continue
            image, items = checked
            record = {"uid": sample.uid, "shard": path.name, "image_offset": -1, "image_size": 0, "status": "no image"}
            if image is not None:
                offset = writer.add(f"{sample.uid}.{ENDINGS.get(image.format, image.format)}", image.data)
                record |= {
                    "image_offset": offset,
                    "image_size": len(image.data),
                    "image_format": image.format,
                    "width": image.width,
                    "height": image.height,
                    "sha256": image.sha256,
                    "status": status,
                }
            for item in items:
                media += _store_item(writer, sample.uid, item, status)
            if image is not None and (positives := sample.positives()):
                writer.add(f"{sample.uid}.txt", positives[0].string.encode())  # open_clip leaves out samples without
            writer.add(f"{sample.uid}.json", sidecar(sample, record))
            records.append(record)
    names, offsets, sizes = zip(*writer.members, strict=True) if writer.members else ((), (), ())
    write_index(index_path(path), pa.table([list(names), list(offsets), list(sizes)], schema=INDEX_SCHEMA), path, [])
    return ShardRecords(pa.Table.from_pylist(records, ShardWriter.SCHEMA), bad, pa.Table.from_pylist(media, MEDIA_SCHEMA))


def _store_item(writer: ShardWriter, uid: str, item: EncodedMedium, status: str) -> Iterator[dict[str, Any]]:
    """Write the parts of one medium; yields their rows."""
    label = member_label(item.name, item.medium)
    for number, (data, ending) in enumerate(item.parts):
        member = f"{label}.{number:04d}" if len(item.parts) > 1 else label
        row = {
            "uid": uid,
            "name": item.name,
            "medium": item.medium,
            "file": writer.path.name,
            "offset": writer.add(f"{uid}.{member}.{ending}", data),
            "size": len(data),
            "format": ending,
            "sha256": hashlib.sha256(data).hexdigest(),
            "status": status,
        }
        if number == 0 and item.facts is not None:
            row |= {"shape": list(item.facts.shape), "dtype": item.facts.dtype}
        yield row


Found = tuple[EncodedImage | None, list[EncodedMedium]]


def _check_samples(pool: Pool, rows: list[int], check: bool, blur: str) -> Iterator[tuple[Sample, Found | QuarantineEntry]]:
    """Samples in order with what they hold, read and decoded; decoding runs beside in threads (the decoders release the lock)."""

    def one(row: int) -> tuple[Sample, Found | QuarantineEntry]:
        sample = pool[row]
        if blur:
            try:
                boxes = boxes_of(sample.extras.get(blur), field=blur)
                sample = with_blurred_boxes(sample, boxes) if boxes else sample
            except (DataError, OSError) as error:  # it must not be stored unblurred
                name = sample.own_image.name if sample.own_image else ""
                return sample, QuarantineEntry(sample.uid, "image", f"cannot be blurred: {error}", name)
        return sample, check_sample(sample, decode_fully=check)

    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as threads:
        chunk = FEW if pool.has_media else CHUNK
        for start in range(0, len(rows), chunk):
            yield from threads.map(one, rows[start : start + chunk])


def check_sample(sample: Sample, *, decode_fully: bool = True, encode: bool = True) -> Found | QuarantineEntry:
    """The image and the media of a sample, or what is wrong with the first that cannot be used; `encode` is that of `check_image`."""
    image = check_image(sample, decode_fully=decode_fully, encode=encode)
    if isinstance(image, QuarantineEntry):
        return image
    items = []
    for name, item in sample.media.items():
        checked = check_item(sample.uid, name, item, decode_fully=decode_fully)
        if isinstance(checked, QuarantineEntry):
            return checked
        items.append(checked)
    return image, items


def check_item(uid: str, name: str, item: MediaItem, *, decode_fully: bool = True) -> EncodedMedium | QuarantineEntry:
    """Read a medium and decode it in full; what fails comes back as a `QuarantineEntry` row whose stage is the kind of medium."""
    medium = medium_of(item.medium)
    if not NAME.fullmatch(name):
        raise DataError(f"the medium {name!r} cannot be a file name", field="media", expected="letters, digits, _ and -")
    try:
        with content_untold(*item.parts):
            read = in_memory(item, medium.limit)
            parts = tuple(map(medium.encode, read.parts))
            facts = medium.facts(medium.decode(read)) if decode_fully else None
    except DataError as error:
        return QuarantineEntry(uid, item.medium, error.problem, str(error.file or item.name))
    return EncodedMedium(name, item.medium, parts, facts)


def check_image(sample: Sample, *, decode_fully: bool = True, encode: bool = True) -> EncodedImage | QuarantineEntry | None:
    """Read an image, look at its header and decode it in full; what fails comes back as a `QuarantineEntry`. None: there is no image, or
    it is one of the sample's media.

    encode=False leaves pixels that are in memory as they are, with neither bytes nor hash: for a look that writes nothing.
    """
    image = sample.own_image
    if image is None:
        return None
    try:
        if isinstance(image, ArrayImage):
            height, width = decode(image).shape[:2]  # checks the array
            if not encode:
                return EncodedImage(b"", stored_format(height, width), width, height, "")
            data, _ = encoded_picture(image, "image")
        else:
            data = image.read()
        with content_untold(image):
            if decode_fully and not isinstance(image, ArrayImage):
                decode(BytesImage(data, image.name), exact=True)
            info = probe(data, name=image.name)
    except OSError as error:
        return QuarantineEntry(sample.uid, "read", error.strerror or str(error), image.name)
    except DataError as error:
        return QuarantineEntry(sample.uid, "image", error.problem, image.name)
    return EncodedImage(data, info.format.lower(), info.width, info.height, hashlib.sha256(data).hexdigest())


def sidecar(sample: Sample, record: dict[str, Any]) -> bytes:
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
    if sample.media:
        plain["media"] = {name: {"medium": item.medium, "parts": len(item.parts)} for name, item in sample.media.items()}
    if sample.regions:
        plain["regions"] = [_region(region) for region in sample.regions]
    if sample.relations:
        plain["relations"] = [asdict(relation) for relation in sample.relations]
    return json.dumps(plain, ensure_ascii=False).encode()


def _region(region: Region) -> dict[str, Any]:
    return {key: value for key, value in asdict(region).items() if value not in (None, ())}
