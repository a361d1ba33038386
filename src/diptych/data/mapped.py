"""Columns of a built data set as memory-mapped Arrow files: opening reads nothing, and all processes of a machine share the pages.

    DIR/columns/rows.arrow       a row a sample: identity, splits, extras, where its image lies, where its texts begin
    DIR/columns/texts.arrow      a row per text; `regions.arrow` and `relations.arrow` likewise, if there are any
    DIR/columns/columns.json     what they were made from; written last, so that it says that the others are whole

`diptych data map DIR` writes them, and `diptych data build` does for data of a million rows or more. They are used for as long as the
tables of the folder are those that they were made from; data with media of their own (clips, clouds) open as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.core.sample import ORIGINS
from diptych.data.dataset import Pool
from diptych.data.media.images import Slices
from diptych.data.metadata import Metadata, WholeRows
from diptych.data.ragged import Ragged
from diptych.data.texts import Texts

FOLDER, FACTS = "columns", "columns.json"
FORMAT = 1
MAPPED_FROM = 1_000_000
"""Rows from which `build` writes mapped columns."""
TAIL = 65_536
LONGEST = 2**31 - 1
FILE, OFFSET, SIZE, TEXT_START = "_image_file", "_image_offset", "_image_size", "_text_start"


def tables_key(folder: Path) -> str:
    """Hash of the names, sizes and last bytes of a folder's tables, and of the names and sizes of its shards: cheap, and another
    one after any change by `revise`, `takedown` or `append`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        first = path.relative_to(folder).parts[0]
        if first == FOLDER or first.startswith(".") or path.name.startswith(".") or not path.is_file():
            continue
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        if path.suffix != ".tar":
            with path.open("rb") as file:
                file.seek(max(0, size - TAIL))
                digest.update(file.read())
    return digest.hexdigest()


def is_mapped(folder: Path) -> bool:
    """True if a built folder has mapped columns, and they are of its present tables."""
    return (folder / FOLDER / FACTS).is_file() and _facts(folder)["tables"] == tables_key(folder)


def write_mapped(pool: Pool, folder: Path) -> Path:
    """Writes the columns of a pool that `open_built` gave beside its tables, in one step. Raises DataError for a pool with media,
    or whose images are in files of their own."""
    images = pool.image_table
    if pool.has_media or not isinstance(images, Slices):
        raise DataError(
            f"'{pool.name}' has media or files of its own", file=folder, expected="a folder that `diptych data build` made"
        )
    whole = pool.stored_columns
    columns = {name: _plain(array) for name, array in whole.columns.items()}
    texts, regions, relations = pool.record_tables
    columns |= {
        FILE: pa.array(images.file_N),
        OFFSET: pa.array(images.offset_N),
        SIZE: pa.array(images.size_N),
        TEXT_START: pa.array(texts.start_N1[:-1]),
    }
    records = {"texts": _coded(texts), "regions": regions and regions.table, "relations": relations and relations.table}
    starts = {name: ragged.start_N1 for name, ragged in (("regions", regions), ("relations", relations)) if ragged is not None}
    columns |= {f"_{name}_start": pa.array(start_N1[:-1]) for name, start_N1 in starts.items()}
    tables = tables_key(folder)
    with atomic_folder(folder / FOLDER) as work:
        for name, table in {"rows": pa.table(columns), **records}.items():
            if table is not None:
                _write(table, work / f"{name}.arrow")
        facts = {
            "format": FORMAT,
            "name": pool.name,
            "tables": tables,
            "fingerprint": pool.fingerprint,
            "rows": len(pool),
            "files": [str(path.relative_to(folder)) for path in images.files],
            "json": sorted(whole.json),
            "languages": texts.table["language"].unique().to_pylist(),
            "records": {name: int(start_N1[-1]) for name, start_N1 in starts.items()},
            "quarantined": len(pool.quarantine),
        }
        write_json(work / FACTS, facts)
    return folder / FOLDER


def open_mapped(folder: Path) -> Pool:
    """The pool of a folder with mapped columns. Nothing is read but their names; a row is made when it is asked for."""
    facts = _facts(folder)
    try:
        rows = _read(folder, "rows")
        columns = {name: rows.column(name).chunk(0) for name in rows.column_names}
        file_N, offset_N, size_N = (columns.pop(name).to_numpy() for name in (FILE, OFFSET, SIZE))
        start_N = columns.pop(TEXT_START).to_numpy()
        strings = _read(folder, "texts")
        ragged = {
            name: _records(StartsOfRows(columns.pop(f"_{name}_start").to_numpy(), count), _read(folder, name))
            for name, count in facts["records"].items()
        }
        count = len(columns["uid"])
        if count != facts["rows"]:
            raise DataError(f"has {count:,} rows but {FACTS} says {facts['rows']:,}", file=folder / FOLDER / "rows.arrow")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise DataError(
            f"is damaged: {type(error).__name__}: {reason}", file=folder / FOLDER, expected="`diptych data map` again"
        ) from error
    texts = Texts.coded(
        StartsOfRows(start_N, strings.num_rows),
        strings.column("string").chunk(0) if strings.num_rows else pa.array([], pa.large_string()),
        tuple(facts["languages"]),
        *(
            strings.column(name).chunk(0).to_numpy() if strings.num_rows else np.zeros(0, np.int32)
            for name in ("language", "origin")
        ),
    )
    files = tuple(folder / name for name in facts["files"])
    pool = Pool(
        facts["name"],
        Metadata(columns, {}, frozenset(facts["json"]), WholeRows(count)),
        texts,
        Slices(files, file_N, offset_N, size_N, columns["uid"]),
        regions=ragged.get("regions"),
        relations=ragged.get("relations"),
        fingerprint=facts["fingerprint"],
        lazy=True,
    )
    if facts["quarantined"]:
        pool.notes.append(f"{facts['quarantined']:,} samples were left out when the columns were mapped (quarantine.parquet)")
    return pool


class StartsOfRows:
    """The first record of each row, and after the last row the number of records: what `Ragged.start_N1` is, without a copy."""

    def __init__(self, start_N: npt.NDArray[np.int64], records: int) -> None:
        self.start_N, self.records = start_N, records

    def __len__(self) -> int:
        return len(self.start_N) + 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            position = int(index) + (len(self) if index < 0 else 0)
            return np.int64(self.records) if position == len(self.start_N) else self.start_N[position]
        if isinstance(index, slice):
            begin, stop, step = index.indices(len(self))
            if step == 1 and stop <= len(self.start_N):
                return self.start_N[begin:stop]
            index = np.arange(begin, stop, step)
        index = np.asarray(index)
        ends = index == len(self.start_N)
        return (
            np.where(ends, self.records, self.start_N[np.where(ends, 0, index)])
            if len(self.start_N)
            else np.zeros(len(index), np.int64)
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[np.int64]:
        return np.append(self.start_N, self.records).astype(dtype or np.int64)


def _records(start_N1: Any, table: pa.Table) -> Ragged:
    """Records by row; `start_N1` is asked for what an array of it would be asked for."""
    return Ragged(start_N1, table)


def _facts(folder: Path) -> Mapping[str, Any]:
    path = folder / FOLDER / FACTS
    try:
        facts = read_object(path)
    except ValueError as error:
        raise DataError(f"{error}", file=path, expected="`diptych data map` again") from error
    if facts.get("format") != FORMAT:
        raise DataError(f"has format {facts.get('format')}", file=path, expected=f"format {FORMAT}: `diptych data map` again")
    return facts


def _plain(array: pa.Array) -> pa.Array:
    """A column in one piece, its strings with long offsets where short ones cannot count them."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array.cast(pa.large_string()) if pa.types.is_string(array.type) and array.nbytes > LONGEST else array


def _coded(texts: Ragged) -> pa.Table:
    """Texts with their languages and origins as numbers."""
    table = texts.table
    codes = [
        pc.index_in(table[column], value_set=values.cast(table[column].type)).cast(kind)
        for column, values, kind in (
            ("language", table["language"].unique(), pa.int32()),
            ("origin", pa.array(ORIGINS, pa.string()), pa.uint8()),
        )
    ]
    return pa.table([table["string"], *codes], ["string", "language", "origin"])


def _write(table: pa.Table, path: Path) -> None:
    """One record batch, so that every column is one array in place."""
    table = table.combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows))


def _read(folder: Path, name: str) -> pa.Table:
    with pa.memory_map(str(folder / FOLDER / f"{name}.arrow")) as source:
        return pa.ipc.open_file(source).read_all()
