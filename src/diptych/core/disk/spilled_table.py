"""Tables of Python values that are larger than memory: columns are spilled to Arrow files and read memory-mapped.

The type of a column is what Arrow infers for all its values together, as `pyarrow.array` does for a list. If there is none (values of
mixed types), the values are stored as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

BLOCK = 1024
"""Rows of a record batch. A multiple of the 1,024 rows that a Parquet writer encodes at a time."""
BLOCK_BYTES = 64 * 2**20
"""Binary values of a record batch, after which it ends early."""
NO_COMMON_TYPE = (pa.ArrowException, OverflowError)


class ColumnFile:
    """Writer of one column of a known type, by blocks.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.arrow"
    >>> with ColumnFile(path, pa.int64()) as column:
    ...     column.extend([1, 2])
    >>> with mapped({"a": path}) as table:
    ...     table["a"].to_pylist()
    [1, 2]
    """

    def __init__(self, path: Path, kind: pa.DataType) -> None:
        self._schema = pa.schema([("value", kind)])
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._values: list[Any] = []
        self._bytes = 0

    def append(self, value: Any, nbytes: int = 0) -> None:
        """Add a value of about `nbytes` bytes."""
        self._values.append(value)
        self._bytes += nbytes
        if len(self._values) == BLOCK or self._bytes >= BLOCK_BYTES:
            self._flush()

    def extend(self, values: Iterable[Any]) -> None:
        """Add values. Raises `NO_COMMON_TYPE` if one is not of the column's type."""
        for value in values:
            self.append(value)

    def _flush(self) -> None:
        if self._values:
            array = pa.array(self._values, self._schema.field(0).type)
            self._writer.write_batch(pa.record_batch([array], schema=self._schema))
            self._values, self._bytes = [], 0

    def __enter__(self) -> ColumnFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()


def spill_column(path: Path, blocks: Callable[[], Iterator[Sequence[Any]]]) -> None:
    """Write a column whose type is inferred over all values; `blocks` gives them from the start, up to three times."""
    kind = common_type(blocks())
    if kind is not None:
        try:
            with ColumnFile(path, kind) as file:
                for values in blocks():
                    file.extend(values)
        except NO_COMMON_TYPE:
            kind = None
    if kind is None:
        with ColumnFile(path, pa.string()) as file:
            for values in blocks():
                file.extend(map(_json, values))


def column_of(values: Sequence[Any]) -> pa.Array:
    """A column in memory, of the type that `spill_column` gives it."""
    try:
        return pa.array(values)
    except NO_COMMON_TYPE:
        return pa.array(map(_json, values), pa.string())


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def common_type(blocks: Iterable[Sequence[Any]]) -> pa.DataType | None:
    """The type that Arrow infers for the values of all blocks, or None if they have none. Only blocks that changed the type are held:
    the others infer the same type beside them."""
    kept: list[Any] = []
    kind = pa.null()
    for values in blocks:
        try:
            wider = pa.infer_type([*kept, *values])
        except NO_COMMON_TYPE:
            return None
        if wider != kind:
            kept, kind = [*kept, *values], wider
    return kind


@contextmanager
def mapped(columns: dict[str, Path]) -> Iterator[pa.Table]:
    """A table of the columns in these files, memory-mapped. It must not be used after the block."""
    maps = [pa.memory_map(str(path)) for path in columns.values()]
    try:
        yield pa.table({name: pa.ipc.open_file(file).read_all()["value"] for name, file in zip(columns, maps, strict=True)})
    finally:
        for file in maps:
            file.close()
