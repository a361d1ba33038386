"""Index of the members of a tar, built once and stored beside it, so that any sample is one read away.

Only headers are visited. A tar that was cut keeps everything before the cut; what is wrong is reported with its byte. Nothing
is ever unpacked to disk, and members whose names climb out of the folder are refused.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from diptych.core.disk.cache import cache_folder
from diptych.core.disk.paths import open_file
from diptych.core.errors import DataError
from diptych.data.columns import read_parquet, write_parquet

INDEX_SCHEMA = pa.schema([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
BLOCK = 512
_FORMAT = b"1"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


@dataclass(frozen=True, slots=True)
class TarProblem:
    """Something wrong in a tar: at which byte, in which member ("" when unknown)."""

    byte: int
    reason: str
    member: str = ""


@dataclass(frozen=True, slots=True)
class TarIndex:
    """`members` has one row per regular file in the order of the tar: name, offset of its first byte, size."""

    members: pa.Table
    problems: tuple[TarProblem, ...]


def open_index(path: Path) -> TarIndex:
    """The index of a tar: the stored one when it fits the file, else a fresh one, which is then stored.

    It is kept as NAME.idx.parquet beside the tar, or in the user's cache folder where the tar's folder cannot be written.
    """
    for index_file in (index_path(path), _cache_path(path)):
        if (
            index_file.is_file()
            and index_file.stat().st_mtime_ns >= path.stat().st_mtime_ns
            and (stored := _read_index(index_file, path))
        ):
            return stored
    index = index_tar(path)
    for index_file in (index_path(path), _cache_path(path)):
        try:
            write_index(index_file, index.members, path, index.problems)
        except OSError:
            continue  # a read-only folder: try the next place, and without any the tar is indexed again next time
        break
    return index


def _read_index(index_file: Path, tar: Path) -> TarIndex | None:
    """An index that fits the tar; None for one of another time or form, or with places that the tar does not have."""
    try:
        table = read_parquet(index_file)
        metadata, size = table.schema.metadata or {}, tar.stat().st_size
        if metadata.get(b"format") != _FORMAT or metadata.get(b"tar_size") != str(size).encode():
            return None
        members = table.replace_schema_metadata(None).select(INDEX_SCHEMA.names)
        offset, length = (members[name].to_numpy() for name in ("offset", "size"))
        names = members["name"].to_pylist()
        sound = members.schema.equals(INDEX_SCHEMA) and not sum(column.null_count for column in members.columns)
        if not sound or (len(offset) and (min(offset.min(), length.min()) < 0 or (offset > size - length).any())):
            return None
        problems = tuple(TarProblem(**row) for row in json.loads(metadata[b"problems"]))
    except (DataError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError):
        return None
    return None if any(map(climbs, names)) else TarIndex(members, problems)


def write_index(index_file: Path, members: pa.Table, tar: Path, problems: tuple[TarProblem, ...] | list[TarProblem]) -> None:
    """Write the index of a tar to `index_file`, with the size of that tar and its problems."""
    rows = [{"byte": p.byte, "reason": p.reason, "member": p.member} for p in problems]
    metadata = {"format": _FORMAT, "tar_size": str(tar.stat().st_size), "problems": json.dumps(rows, ensure_ascii=False)}
    write_parquet(index_file, members.replace_schema_metadata(metadata))


def index_path(tar: Path) -> Path:
    """Path of the index of a tar: beside it."""
    return tar.with_name(f"{tar.stem}.idx.parquet")


def _cache_path(tar: Path) -> Path:
    return cache_folder() / "index" / f"{hashlib.sha256(os.fsencode(tar.resolve())).hexdigest()[:24]}.idx.parquet"


def index_tar(path: Path) -> TarIndex:
    """Walk over the headers of a tar (ustar, GNU and PAX long names)."""
    try:
        opened = open_file(path)
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, expected="a tar file") from error
    with opened:
        size = os.fstat(opened.fileno()).st_size
        if size == 0:
            raise DataError("is empty", file=path, expected="a tar file")
        return _walk_tar(opened, size, path)


def _walk_tar(file: BinaryIO, size: int, path: Path) -> TarIndex:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if kind := next((name for magic, name in _COMPRESSED.items() if data[:2] == magic), None):
            raise DataError(f"is compressed with {kind}: members cannot be reached", file=path, expected="a plain .tar")
        return _Walk(data, size, path).run()


class _Walk:
    """One pass over the headers. `name` and `bytes` of a long-name header apply to the member after it."""

    def __init__(self, data: mmap.mmap, size: int, path: Path) -> None:
        self.data, self.size, self.path = data, size, path
        self.names: list[str] = []
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.problems: list[TarProblem] = []
        self.pax: dict[str, str] = {}

    def run(self) -> TarIndex:
        at = 0
        ended = False
        while at + BLOCK <= self.size:
            header = self.data[at : at + BLOCK]
            if header[0] == 0 and not header.strip(b"\0"):
                ended = True
                break
            if not _checksum_fits(header):
                if at == 0:
                    raise DataError("is not a tar file: the first header is damaged", file=self.path, expected="a plain .tar")
                self.problems.append(TarProblem(at, f"no tar header at byte {at:,}: everything after it is lost"))
                return self._index()
            try:
                after = self._member(header, at)
            except ValueError as error:
                self.problems.append(
                    TarProblem(at, f"unreadable tar header at byte {at:,} ({error}): everything after it is lost")
                )
                return self._index()
            at = after
        if not ended and not (self.problems and self.problems[-1].byte == self.size):
            at = min(at, self.size)
            self.problems.append(TarProblem(at, f"cut at byte {at:,}: the end mark is missing, and with it whatever came after"))
        return self._index()

    def _index(self) -> TarIndex:
        members = pa.table([self.names, self.offsets, self.sizes], schema=INDEX_SCHEMA)
        return TarIndex(members, tuple(self.problems))

    def _member(self, header: bytes, at: int) -> int:
        """Note one member; returns where the next header starts."""
        kind = header[156:157]
        size = int(self.pax.get("size", "") or _number(header[124:136]))
        if size < 0:
            raise ValueError("a negative size")
        start = at + BLOCK
        after = start + (size + BLOCK - 1) // BLOCK * BLOCK
        if kind in (b"L", b"x", b"g", b"K"):
            body = self.data[start : min(start + size, self.size)]
            if start + size > self.size:
                self._cut(start + size, "a long name")
            elif kind == b"L":
                self.pax["path"] = body.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == b"x":
                self.pax |= _pax(body)
            return after if start + size <= self.size else self.size + 1
        name = self.pax.pop("path", None) or _ustar_name(header)
        self.pax = {}
        if start + size > self.size:
            self._cut(start + size, name)
            return self.size + 1
        if kind == b"5" or (kind == b"\0" and name.endswith("/")):
            return after
        if kind not in (b"0", b"\0", b"7"):
            self.problems.append(TarProblem(at, "is a link or device, not a file: refused", name))
        elif climbs(name):
            self.problems.append(TarProblem(at, "has a path that leads out of the archive: refused", name))
        else:
            self.names.append(name)
            self.offsets.append(start)
            self.sizes.append(size)
        return after

    def _cut(self, needed: int, name: str) -> None:
        self.problems.append(TarProblem(self.size, f"cut at byte {self.size:,}: '{name}' would end at byte {needed:,}", name))


def climbs(name: str) -> bool:
    """True if a member name is absolute or leads out of the folder.

    >>> climbs("../../etc/passwd"), climbs("/etc/passwd"), climbs("a/b..c.jpg")
    (True, True, False)
    """
    return name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/")


def _checksum_fits(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return stored == sum(header) - sum(header[148:156]) + 8 * 32


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, for members of 8 GiB and more
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.strip(b"\0 ") or b"0", 8)


def _ustar_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _pax(body: bytes) -> dict[str, str]:
    """The records of a PAX header: "LENGTH KEY=VALUE\\n" each."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at : at + 1] != b"\0":
        space = body.index(b" ", at)
        length = int(body[at:space])
        if length <= space - at:
            raise ValueError("a PAX record of no length")
        key, _, value = body[space + 1 : at + length - 1].partition(b"=")
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += length
    return fields
