"""Log of changes to a built folder, item by item: what a running service adds, corrects and removes.

    OUT/changes.jsonl            one line per change, on disk before the call returns; the last line of an item counts
    OUT/shards/added-00000.bin   the bytes of added pictures, end to end

`open_built` applies the log to manifest and texts, so that readers see an item as soon as its line is there. `revise.revise` writes
everything into shards and tables and removes the log. A line without its end, which a kill leaves, is no change.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.lock import exclusive
from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError, RunError
from diptych.core.sample import Text
from diptych.data.columns import column_of
from diptych.data.shards.mark import SHARDS
from diptych.data.texts import text_table

LOG, LOCK = "changes.jsonl", ".changing"
REMOVED = "removed"
"""Stage of the quarantine for items that were removed and may come back, unlike those of a takedown."""
PATIENCE = 10.0
"""Seconds for which a change waits for another one of the same folder."""


@dataclass(frozen=True, slots=True)
class NewPicture:
    """Encoded picture of an item to store: its bytes, format ("png"), size in pixels and sha256."""

    data: bytes
    format: str
    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PutItem:
    """An item with all its columns and texts. It replaces an item of the same uid.

    row      columns of the manifest; of a picture that is stored already also its shard, offset, size and hash
    picture  a new picture to store, or None
    """

    row: Mapping[str, Any]
    texts: tuple[Text, ...]
    picture: NewPicture | None = None

    @property
    def uid(self) -> str:
        return str(self.row["uid"])


@dataclass(frozen=True, slots=True)
class RemoveItem:
    """Removal of an item."""

    uid: str
    reason: str = "removed"


@dataclass(frozen=True)
class Changes:
    """Content of a log: rows and texts by uid, and the reasons of removals by uid."""

    rows: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    texts: Mapping[str, list[list[str]]] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.rows or self.removed)

    def on_manifest(self, manifest: pa.Table) -> pa.Table:
        """The manifest with the changed rows at its end, and without removed ones."""
        if not self:
            return manifest
        kept = manifest.filter(pc.invert(pc.is_in(manifest["uid"], value_set=self._uids())))
        if not self.rows:
            return kept
        return with_rows(kept, list(self.rows.values()))

    def on_texts(self, texts: pa.Table) -> pa.Table:
        """The table of texts with those of the changed items, and without those of removed ones."""
        if not self:
            return texts
        kept = text_table(texts.filter(pc.invert(pc.is_in(texts["uid"], value_set=self._uids()))))
        rows = [(uid, *text) for uid, own in self.texts.items() for text in own]
        columns = [list(values) for values in zip(*rows, strict=True)] if rows else [[], [], [], []]
        new = pa.table([pa.array(values, pa.string()) for values in columns], names=["uid", "string", "language", "origin"])
        return pa.concat_tables([kept, new.select(kept.column_names).cast(kept.schema)])

    def _uids(self) -> pa.Array:
        return pa.array([*self.rows, *self.removed], pa.string())


def with_rows(manifest: pa.Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The manifest with more rows, and a column for each field that it lacks. Raises DataError for a value of another kind."""
    fields = list(manifest.schema)
    for name in dict.fromkeys(key for row in rows for key in row):
        if name not in manifest.column_names:
            array = column_of([row.get(name) for row in rows])
            if array is None:
                raise DataError("holds values of several kinds", field=name, expected="strings, or numbers, or lists of strings")
            fields.append(pa.field(name, array.type))
    schema = pa.schema(fields, manifest.schema.metadata)
    arrays = []
    for column in schema:
        try:
            arrays.append(pa.array([row.get(column.name) for row in rows], column.type))
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            value = next((row[column.name] for row in rows if row.get(column.name) is not None), None)
            raise DataError(f"holds {value!r:.60}", field=column.name, expected=f"a value of type {column.type}") from error
    full = [
        manifest[column.name] if column.name in manifest.column_names else pa.nulls(manifest.num_rows, column.type)
        for column in schema
    ]
    return pa.concat_tables([pa.table(full, schema=schema), pa.table(arrays, schema=schema)])


def read_changes(folder: Path) -> Changes:
    """Changes of a built folder since its tables were written; none without a log. Raises DataError for a line that is no change."""
    path = folder / LOG
    if not path.is_file():
        return Changes()
    try:
        data = read_file(path, folder)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error
    rows: dict[str, dict[str, Any]] = {}
    texts: dict[str, list[list[str]]] = {}
    removed: dict[str, str] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):  # a kill may have cut the last one, which nobody was told of
        try:
            change = json.loads(line)
            if "put" in change:
                uid = _string(change["put"]["uid"])
                rows.pop(uid, None)  # the order is that of the last changes
                rows[uid] = dict(change["put"])
                texts[uid] = [[_string(part) for part in text] for text in change["texts"]]
                if any(len(text) != 3 for text in texts[uid]):
                    raise ValueError("a text has string, language and origin")
                removed.pop(uid, None)
            else:
                uid = _string(change["remove"])
                removed[uid] = str(change.get("reason", REMOVED))
                rows.pop(uid, None)
                texts.pop(uid, None)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError("is not a change", file=path, row=number, expected="a whole copy of the folder") from error
    return Changes(rows, texts, removed)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__}")
    return value


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Context manager: nobody else changes the built folder meanwhile. Waits `PATIENCE` seconds. Raises RunError after that."""
    end = time.monotonic() + PATIENCE
    while True:
        lock = exclusive(folder, LOCK, f"{folder} is being changed")
        try:
            lock.__enter__()
            break
        except RunError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


class NothingStored(RunError):
    """The disk is full, and nothing of the change was stored."""


class LogMark:
    """Sizes of the log and of its file of pictures before a change, to go back to.

    rows  columns of the items that the change puts, with the places of their pictures
    """

    def __init__(self, folder: Path, pictures: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self.files = [folder / LOG, pictures]
        self.sizes = [file.stat().st_size if file.is_file() else 0 for file in self.files]

    def restore(self) -> None:
        """Cut both files to these sizes."""
        for file, size in zip(self.files, self.sizes, strict=True):
            with suppress(OSError):
                if size:
                    os.truncate(file, size)
                else:
                    file.unlink(missing_ok=True)


def append_changes(folder: Path, changes: Sequence[PutItem | RemoveItem], *, revision: int) -> LogMark:
    """Append changes to the log of a built folder; call it within `changing`. On disk when it returns, in the order given.

    revision  of the manifest, which names the file of pictures
    Returns the sizes before, to take the changes back. Raises NothingStored when the disk is full.
    """
    pictures = folder / SHARDS / f"added-{revision:05d}.bin"
    _drop_half_line(folder / LOG)
    before = LogMark(folder, pictures)
    try:
        lines, added = _lines(changes, pictures, before.sizes[1])
        if added:
            _append(pictures, added)
        _append(folder / LOG, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        before.rows = [line["put"] for line in lines if "put" in line]
    except OSError as error:
        before.restore()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"the disk of {folder} is full: nothing of the change was stored; make room and send it again"
            ) from error
        raise
    except BaseException:
        before.restore()
        raise
    return before


def _lines(changes: Sequence[PutItem | RemoveItem], pictures: Path, end: int) -> tuple[list[dict[str, Any]], bytes]:
    """Lines of the log, and the bytes of the pictures, which begin at byte `end` of their file."""
    lines: list[dict[str, Any]] = []
    blobs = []
    for change in changes:
        if isinstance(change, RemoveItem):
            lines.append({"remove": change.uid, "reason": change.reason})
            continue
        row = {name: value for name, value in change.row.items() if value is not None}
        if change.picture is not None:
            picture = change.picture
            row |= {"shard": pictures.name, "image_offset": end, "image_size": len(picture.data), "status": "ok"}
            row |= {"image_format": picture.format, "width": picture.width, "height": picture.height, "sha256": picture.sha256}
            blobs.append(picture.data)
            end += len(picture.data)
        row = {"shard": pictures.name, "image_offset": -1, "image_size": 0, "status": "no image"} | row
        lines.append({"put": row, "texts": [[text.string, text.language, text.origin] for text in change.texts]})
    return lines, b"".join(blobs)


def _append(path: Path, data: bytes) -> None:
    """Append to a file and flush it to disk, with its name where it is new."""
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    if fresh:
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _drop_half_line(path: Path) -> None:
    """Cut off the end of a log that a kill left without its newline, before something is appended to it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) == b"\n":
                return
    data = path.read_bytes()
    os.truncate(path, data.rfind(b"\n") + 1)
