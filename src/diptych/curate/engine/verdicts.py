"""Verdicts and columns of a step as Arrow tables, whose Python objects are made when asked for: a million rows take some tens of MB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.data.dataset import Pool
from diptych.data.ragged import one_chunk
from diptych.data.subset import uid_column

BLOCK = 16_384
"""Rows of which there are Python objects at a time."""
DROPS = pa.schema([("uid", pa.string()), ("step", pa.string()), ("reason", pa.string())])


class StringColumn(Sequence[str]):
    """Strings of an Arrow column. Equal to any sequence of the same strings.

    >>> StringColumn(pa.array(["a", "b"])) == ("a", "b")
    True
    """

    __hash__ = None  # type: ignore[assignment]  # equal to tuples, whose hash differs

    def __init__(self, column: pa.Array | pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        """The column in one piece, for `pyarrow.array`."""
        column = one_chunk(self.column)
        return column if type is None else column.cast(type)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return StringColumn(self.column.take(pa.array(range(len(self))[row], pa.int64())))
        value: str = self.column[range(len(self))[row]].as_py()
        return value

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self.column.slice(start, BLOCK).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))


class DropTable(Sequence[Drop]):
    """Dropped rows of an Arrow table with the columns uid, step and reason. Equal to any sequence of the same drops."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, dropped: Sequence[Drop]) -> DropTable:
        """Table of any sequence of drops; one that is a table already is taken as it is."""
        if isinstance(dropped, DropTable):
            return dropped
        columns = [pa.array([getattr(drop, field.name) for drop in dropped], field.type) for field in DROPS]
        return cls(pa.table(columns, schema=DROPS))

    @classmethod
    def of_step(cls, slug: str, uids: pa.Array, reasons: pa.Array) -> DropTable:
        """Drops of one step."""
        return cls(pa.table([uids, pa.repeat(slug, len(uids)), reasons], schema=DROPS))

    def __len__(self) -> int:
        rows: int = self.table.num_rows
        return rows

    @overload
    def __getitem__(self, row: int) -> Drop: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Drop]: ...

    def __getitem__(self, row: int | slice) -> Drop | Sequence[Drop]:
        if isinstance(row, slice):
            return DropTable(self.table.take(pa.array(range(len(self))[row], pa.int64())))
        return Drop(*(column[range(len(self))[row]].as_py() for column in self.table.columns))

    def __iter__(self) -> Iterator[Drop]:
        for start in range(0, len(self), BLOCK):
            part = self.table.slice(start, BLOCK)
            yield from map(Drop, *(column.to_pylist() for column in part.columns))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(one == two for one, two in zip(self, other, strict=True))
        )


class ColumnByUid(Mapping[str, Any]):
    """Mapping uid -> value over an Arrow table of "uid" and one more column. A dictionary is made at the first look-up."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @cached_property
    def _values(self) -> dict[str, Any]:
        uids, values = (column.to_pylist() for column in self.table.columns)
        return dict(zip(uids, values, strict=True))

    def __getitem__(self, uid: str) -> Any:
        return self._values[uid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        rows: int = self.table.num_rows
        return rows


def column_by_uid(name: str, uids: Sequence[str], values: npt.NDArray[Any]) -> ColumnByUid:
    """Column of one value for each of some uids."""
    return ColumnByUid(pa.table({"uid": pa.array(uids, pa.string()), name: pa.array(values)}))


def uids_without(data: Dataset, dropped: pa.Array | pa.ChunkedArray) -> StringColumn:
    """Uids of a data set except for some, in order."""
    uids = uid_column(data)
    stays = uids.filter(pc.invert(pc.is_in(uids, value_set=one_chunk(dropped))))
    return StringColumn(stays.take(pc.sort_indices(stays)))


def string_column(strings: Iterable[str]) -> pa.ChunkedArray:
    """Arrow column of strings that are made one by one."""
    return made_column(strings, pa.string())


def made_column(values: Iterable[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """Arrow column of values that are made one by one."""
    iterator, blocks = iter(values), []
    while block := list(islice(iterator, BLOCK)):
        blocks.append(pa.array(block, kind))
    return pa.chunked_array(blocks, kind)


def dictionaries(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows of a table as dictionaries, made one block after another."""
    for start in range(0, table.num_rows, BLOCK):
        yield from table.slice(start, BLOCK).to_pylist()


def selected(data: Any, rows: npt.NDArray[np.int64]) -> Any:
    """Rows of a data set. Pools take arrays; others want a list of Python's integers."""
    return data.select(rows if isinstance(data, Pool) else rows.tolist())


def verdict_table(result: CurationStepResult) -> pa.Table:
    """Verdict on every row of a step, in order of uid: "uid", "kept" and "reason"."""
    kept = result.kept.column if isinstance(result.kept, StringColumn) else pa.array(result.kept, pa.string())
    drops = DropTable.of(result.dropped).table
    stays, leaves = len(kept), drops.num_rows
    uids = pa.chunked_array([*_chunks(kept), *_chunks(drops["uid"])], pa.string())
    stay = pa.chunked_array([pa.repeat(True, stays), pa.repeat(False, leaves)])
    reasons = pa.chunked_array([pa.repeat("", stays), *_chunks(drops["reason"])], pa.string())
    table = pa.table({"uid": uids, "kept": stay, "reason": reasons})
    return table.take(pc.sort_indices(uids)).combine_chunks()


def verdict_result(table: pa.Table, slug: str, columns: dict[str, Any], seconds: float) -> CurationStepResult:
    """Result of a step from its verdict table."""
    kept, dropped = table.filter(table["kept"]), table.filter(pc.invert(table["kept"]))
    drops = DropTable.of_step(slug, dropped["uid"], dropped["reason"])
    return CurationStepResult(StringColumn(kept["uid"]), drops, columns, seconds)


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]
