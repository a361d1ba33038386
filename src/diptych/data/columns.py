"""Column tables added to an existing data set: Parquet tables keyed by uid, each with the step and configuration that produced it.

Nothing is copied to try a new caption, score or box: a version of a data set is a list of tables and a subset of uids.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.core.config import config_hash, to_plain
from diptych.core.disk.files import write_atomic
from diptych.core.disk.paths import open_file
from diptych.core.errors import DataError, UnknownName

FOLDER = "tables"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_META = b"diptych.made_by"


@dataclass(frozen=True, slots=True)
class MadeBy:
    """Provenance of a table: the step and its configuration.

    >>> MadeBy("min_side", {"pixels": 200}).config_hash == MadeBy("min_side", {"pixels": 100}).config_hash
    False
    """

    step: str
    config: Any = None

    @property
    def config_hash(self) -> str:
        return config_hash(self.config)

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "config": to_plain(self.config), "config_hash": self.config_hash}


@dataclass(frozen=True, slots=True)
class ColumnTable:
    """A table as stored on disk. `table` has a column "uid"; `made_by` holds step, config and config_hash."""

    name: str
    table: pa.Table
    made_by: dict[str, Any]


def write_table(folder: Path, name: str, table: pa.Table, made_by: MadeBy) -> Path:
    """Write ``folder/tables/NAME.parquet`` in one piece; a table of that name is replaced.

    `table` needs a string column "uid" without gaps. Several rows of one uid are allowed (texts, regions); their order is kept.
    """
    if not NAME.fullmatch(name):
        raise DataError(f"table name {name!r} cannot be a file name", expected="letters, digits, _ and -")
    path = folder / FOLDER / f"{name}.parquet"
    if "uid" not in table.column_names:
        raise DataError("has no column 'uid'", file=name, expected=f"'uid' among {', '.join(table.column_names)}")
    uid = table.schema.get_field_index("uid")
    table = table.set_column(uid, "uid", table["uid"].cast(pa.string()))
    if table["uid"].null_count:
        raise DataError(f"{table['uid'].null_count} rows have no uid", file=name, field="uid", expected="a uid in every row")
    metadata = {**(table.schema.metadata or {}), _META: json.dumps(made_by.to_json(), ensure_ascii=False).encode()}
    write_parquet(path, table.replace_schema_metadata(metadata))
    return path


def read_table(folder: Path, name: str) -> ColumnTable:
    """Table with its provenance. An unknown name gets a suggestion."""
    path = folder / FOLDER / f"{name}.parquet"
    if not NAME.fullmatch(name) or not path.is_file():
        raise UnknownName("table", name, table_names(folder), hint=f"there is no table in {folder / FOLDER}")
    table = read_parquet(path)
    try:
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"holds what its types do not allow ({error})", file=path, expected="a table as `write_table` writes it"
        ) from error
    if "uid" not in table.column_names:
        raise DataError("has no column 'uid'", file=path, expected=f"'uid' among {', '.join(table.column_names)}")
    try:
        made_by = json.loads((table.schema.metadata or {}).get(_META, b"{}"))
    except (ValueError, RecursionError) as error:
        raise DataError("has no record of the step that made it", file=path, expected="a table of ours") from error
    return ColumnTable(name, table, made_by)


def table_names(folder: Path) -> list[str]:
    """Names of the tables in a built folder."""
    return sorted(path.stem for path in (folder / FOLDER).glob("*.parquet"))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a Parquet file in one piece (the old file or the new one, never half). Equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=True)
    write_atomic(path, buffer.getvalue())


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns; one that is damaged or lacks a column is named."""
    with _parquet_file(path) as reader:
        table = reader.read(columns)
        names = table.column_names  # which may not be UTF-8
        if missing := [name for name in columns or () if name not in names]:
            raise DataError(f"has no column '{missing[0]}'", file=path, expected=", ".join(columns or ()))
        return table


def rows_of_uid(path: Path, uid: str) -> list[dict[str, Any]]:
    """Rows of a Parquet file with that uid, none if it has no such column; only row groups that hold the uid are read whole."""
    rows: list[dict[str, Any]] = []
    with _parquet_file(path) as reader:
        if "uid" in reader.schema_arrow.names:
            for group in range(reader.num_row_groups):
                uids = reader.read_row_group(group, ["uid"])["uid"].cast(pa.string())
                if len(at := pc.indices_nonzero(pc.equal(uids, uid))):
                    rows += reader.read_row_group(group).take(at).to_pylist()
    return rows


@contextmanager
def _parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; what goes wrong in reading is a DataError that names it.

    Opened by descriptor, since its name may not be UTF-8. Arrow opens it anew where the system allows: if its threads held the Python
    file, one of them could free it after the interpreter has begun to end, which aborts the process.
    """
    try:
        with open_file(path) as file:
            by_descriptor = f"/dev/fd/{file.fileno()}"
            source = pa.OSFile(by_descriptor) if os.path.exists(by_descriptor) else file
            with pq.ParquetFile(source) as reader:
                yield reader
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"is not readable as Parquet: {reason}", file=path) from error


def column_of(values: list[Any]) -> pa.Array | None:
    """Python values as an Arrow column that gives the same values back, or None if Arrow would change them.

    Strings, booleans, integers, floats and lists of one of these; None is a gap. Mixed kinds are not forced into one.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds == {list}:
        inner = {type(item) for value in values if value is not None for item in value}
        plain = len(inner) == 1 and inner <= {str, bool, int, float}
    else:
        plain = len(kinds) == 1 and kinds <= {str, bool, int, float}
    if not plain:
        return None
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None


def refuse_duplicates(uids: pa.Array | pa.ChunkedArray) -> None:
    """Raise a `DataError` that names both rows of the first duplicate uid."""
    if pc.count_distinct(uids).as_py() == len(uids):
        return
    values = uids.to_pylist()
    if None in values:
        raise DataError("has no uid", row=values.index(None), field="uid", expected="a uid in every row")
    twice = next((uid for uid, count in Counter(values).items() if count > 1), None)
    if twice is None:  # numbers that are none differ from themselves
        raise DataError(f"holds {uids.type}", field="uid", expected="strings")
    first = values.index(twice)
    raise DataError(
        f"uid {twice!r} comes twice: rows {first} and {values.index(twice, first + 1)}", field="uid", expected="uids that differ"
    )
