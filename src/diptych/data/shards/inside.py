"""Safety checks of a manifest: shards must lie in its folder, and byte ranges inside the shards.

A folder comes from somebody else as easily as a picture does. A shard called ``../../secrets`` would be read by `verify` and written by
`takedown`; a size of a petabyte would ask for as much memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.disk.paths import KINDS, escapes_folder, path_problem
from diptych.core.errors import DataError
from diptych.data.columns import FOLDER as TABLES
from diptych.data.quarantine import FILE as QUARANTINE
from diptych.data.quarantine import QuarantineEntry
from diptych.data.shards.mark import MANIFEST, MARK, SHARDS
from diptych.data.utf8 import utf8_rows

MANIFEST_FIELDS: Mapping[str, pa.DataType] = {
    "uid": pa.string(),
    "shard": pa.string(),
    "image_offset": pa.int64(),
    "image_size": pa.int64(),
    "sha256": pa.string(),
    "group": pa.string(),
    "licence": pa.string(),
    "source": pa.string(),
    "split": pa.string(),
}
MEDIA_FIELDS: Mapping[str, pa.DataType] = {
    "uid": pa.string(),
    "name": pa.string(),
    "medium": pa.string(),
    "file": pa.string(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "sha256": pa.string(),
}

Ints = npt.NDArray[np.int64]


def refuse_links(folder: Path) -> None:
    """Raise DataError if one of the files of a built folder is a link that leads out of it."""
    names = (MARK, MANIFEST, QUARANTINE, SHARDS, TABLES)
    for path in (*(folder / name for name in names), *sorted((folder / TABLES).glob("*.parquet"))):
        if escapes_folder(path, folder):
            raise _leads_out(path, folder)


def shard_path(folder: Path, name: str, *, follow_links: bool = False) -> Path:
    """File of a shard, by its name in the manifest. Raises DataError for anything but a file of the folder's own."""
    path = folder / SHARDS / name
    fault = path_problem(name)
    if fault or name in ("", ".", "..") or "/" in name or "\\" in name or Path(name).name != name:
        raise DataError(
            f"names the shard {name[:80]!r}",
            file=folder / MANIFEST,
            field="shard",
            expected=f"a file in {SHARDS}/, by its name alone",
        )
    if not follow_links and escapes_folder(path, folder):
        raise _leads_out(path, folder)
    return path


def sound_manifest(folder: Path, manifest: pa.Table, *, follow_links: bool = False) -> tuple[pa.Table, list[QuarantineEntry]]:
    """The rows whose images lie where the manifest says, and the others with the reason. Raises DataError for columns of another kind, and
    for shards that are none of the folder's own."""
    _refuse_columns(manifest, MANIFEST_FIELDS, folder / MANIFEST)
    spoiled: list[QuarantineEntry] = []
    rows_N = utf8_rows(manifest, folder / MANIFEST, spoiled)
    manifest = manifest if len(rows_N) == manifest.num_rows else manifest.take(pa.array(rows_N))
    room_N = _room(folder, manifest["shard"], follow_links)
    faults = _faults(manifest["image_offset"].to_numpy(), manifest["image_size"].to_numpy(), room_N, least=1)
    uids, shards = manifest["uid"], manifest["shard"]
    bad = [
        QuarantineEntry(uids[row].as_py(), "read", reason, str(folder / SHARDS / shards[row].as_py()))
        for row, reason in faults.items()
    ]
    keep = np.ones(manifest.num_rows, bool)
    keep[list(faults)] = False
    return (manifest.filter(pa.array(keep)) if faults else manifest), spoiled + bad


def sound_media(folder: Path, media: pa.Table, *, follow_links: bool = False) -> pa.Table:
    """The table of media, once its files are known to be shards of the folder. A part that is not there has size 0, and costs its sample
    where it is read."""
    file = folder / TABLES / "media.parquet"
    _refuse_columns(media, MEDIA_FIELDS, file)
    room_N = _room(folder, media["file"], follow_links)
    offset_N, size_N = media["offset"].to_numpy(), media["size"].to_numpy()
    faults = _faults(np.where(offset_N < 0, -2, offset_N), size_N, room_N, least=0)
    if not faults:
        return media
    rows = list(faults)
    size_N, offset_N = size_N.copy(), offset_N.copy()
    size_N[rows], offset_N[rows] = 0, 0
    for name, values in (("offset", offset_N), ("size", size_N)):
        media = media.set_column(media.schema.get_field_index(name), media.schema.field(name), pa.array(values))
    return media


def _room(folder: Path, names: pa.ChunkedArray, follow_links: bool) -> Ints:
    """Size of the shard of each row in bytes; -1 if it is missing."""
    encoded = names.combine_chunks().dictionary_encode()
    sizes = []
    for name in encoded.dictionary.to_pylist():
        path = shard_path(folder, name, follow_links=follow_links)
        try:
            facts = os.stat(path)
        except FileNotFoundError:
            sizes.append(-1)
            continue
        if kind := KINDS.get(facts.st_mode & 0o170000):
            raise DataError(f"is {kind}", file=path, expected="a shard")
        sizes.append(facts.st_size)
    return np.array(sizes, np.int64)[encoded.indices.to_numpy()] if sizes else np.zeros(0, np.int64)


def _faults(offset_N: Ints, size_N: Ints, room_N: Ints, *, least: int) -> dict[int, str]:
    """Rows with invalid byte ranges, with the reason. Offset -1 means no image; missing shards are reported elsewhere."""
    there = (offset_N != -1) & (room_N >= 0)
    # Subtracted, since the sum of two large numbers has no place in 64 bits.
    wrong = there & ((offset_N < 0) | (size_N < least) | (size_N > room_N) | (offset_N > room_N - np.minimum(size_N, room_N)))
    return {
        row: f"its place is {size_N[row]:,} bytes from byte {offset_N[row]:,} of a shard of {room_N[row]:,}"
        for row in np.flatnonzero(wrong).tolist()
    }


def _refuse_columns(table: pa.Table, fields: Mapping[str, pa.DataType], file: Path) -> None:
    for name, kind in fields.items():
        if name not in table.column_names:
            raise DataError(f"has no column '{name}'", file=file, expected="a file of `diptych data build`; build it again")
        column = table[name]
        if column.type != kind:
            raise DataError(f"holds {column.type}", file=file, field=name, expected=str(kind))
        if column.null_count and name not in ("sha256", "group", "licence", "source", "split"):
            raise DataError(f"has {column.null_count:,} gaps", file=file, field=name, expected="a value in every row")


def _leads_out(path: Path, folder: Path) -> DataError:
    return DataError(f"is a link that leads out of {folder}", file=path, expected="--follow-links, or the file itself")
