"""Ragged records (texts, regions, relations), several per sample, in flat columns: records of a row are `start[row]..start[row + 1]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import DataError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Records by row. `start_N1` has one entry more than there are rows; `table` holds the records in order of row."""

    start_N1: Ints
    table: pa.Table

    @classmethod
    def by_uid(cls, table: pa.Table, uids: pa.Array) -> Ragged:
        """Sort a uid-keyed table into the order of `uids`. Records of one uid keep their order; unknown uids are left out."""
        row = pc.index_in(table["uid"].cast(uids.type), value_set=uids)
        row_R = row.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls.by_row(table.drop_columns(["uid"]), row_R, len(uids))

    @classmethod
    def by_row(cls, table: pa.Table, row_R: Ints, rows: int) -> Ragged:
        """Sort records into the order of the row number that each carries (-1: left out)."""
        order = np.argsort(row_R, kind="stable")
        order = order[row_R[order] >= 0]
        count = np.bincount(row_R[order], minlength=rows)
        start_N1 = np.concatenate([np.zeros(1, np.int64), np.cumsum(count, dtype=np.int64)])
        if len(order) != table.num_rows or np.any(order[1:] < order[:-1]):
            table = table.take(pa.array(order))
        return cls(start_N1, table.combine_chunks())

    @classmethod
    def of_lists(cls, table: pa.Table, names: Mapping[str, str], uids: Sequence[str]) -> Ragged:
        """From a table with one row per row and a list a column: its columns `names.values()`, as `names`. A null is an empty list.

        Raises DataError, with row and uid, when the lists of a row differ in length from those of the first column.
        """
        start_N1, columns = np.zeros(1, np.int64), list[pa.Array]()
        for column in names.values():
            lists = one_chunk(table.column(column))
            lengths = pc.fill_null(pc.list_value_length(lists), 0)
            own_N1 = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)
            if not columns:
                start_N1 = own_N1
            elif len(uneven := np.flatnonzero(own_N1 != start_N1)):
                row = int(uneven[0]) - 1
                raise DataError(f"{uids[row]} has lists of unequal length", row=row, field=column)
            columns.append(lists.flatten())
        return cls(start_N1, pa.table(columns, list(names)))

    def row(self, row: int) -> list[dict[str, Any]]:
        start, stop = int(self.start_N1[row]), int(self.start_N1[row + 1])
        rows: list[dict[str, Any]] = self.table.slice(start, stop - start).to_pylist() if stop > start else []
        return rows

    def column(self, name: str) -> pa.Array:
        """All records of one column."""
        return one_chunk(self.table[name])

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """All records of one column of numbers without gaps."""
        values: npt.NDArray[Any] = self.column(name).to_numpy(zero_copy_only=False)
        return values

    def lists(self, name: str) -> pa.ListArray:
        """One column as a list per row."""
        return pa.ListArray.from_arrays(pa.array(self.start_N1, pa.int32()), self.column(name))

    def rows(self) -> Ints:
        """The row of every record."""
        return np.repeat(np.arange(len(self.start_N1) - 1), np.diff(self.start_N1))

    def with_column(self, name: str, values: pa.Array) -> Ragged:
        """The same records with one more value each."""
        return Ragged(self.start_N1, self.table.append_column(name, values))

    def mapped(self, change: Callable[[pa.Table], pa.Table]) -> Ragged:
        """The same records in other columns."""
        return Ragged(self.start_N1, change(self.table))

    def take(self, rows: Ints) -> Ragged:
        """The records of these rows, in this order."""
        if len(rows) == len(self.start_N1) - 1 and np.array_equal(rows, np.arange(len(rows))):
            return self
        start_N1 = np.concatenate([[0], np.cumsum(self.start_N1[rows + 1] - self.start_N1[rows])]).astype(np.int64)
        return Ragged(start_N1, self.table.take(pa.array(self.flat(rows)[1])).combine_chunks())

    def flat(self, rows: Ints) -> tuple[Ints, Ints]:
        """For these rows in this order: (position in `rows`, record number) of every record."""
        count = self.start_N1[rows + 1] - self.start_N1[rows]
        position = np.repeat(np.arange(len(rows)), count)
        within = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
        return position, np.repeat(self.start_N1[rows], count) + within

    def to_table(self, uids: pa.Array, rows: Ints) -> pa.Table:
        """The records of these rows as a uid-keyed table; `uids` are those of `rows`."""
        position, record = self.flat(rows)
        table = self.table.take(pa.array(record))
        return table.add_column(0, "uid", uids.take(pa.array(position)))

    def merged(self, other: Ragged) -> Ragged:
        """The records of both, row by row, this one's first. Both have the same columns."""
        rows = np.arange(len(self.start_N1) - 1)
        row_R = np.concatenate([self.flat(rows)[0], other.flat(rows)[0]])
        return Ragged.by_row(pa.concat_tables([self.table, other.table.cast(self.table.schema)]), row_R, len(rows))


def with_records(old: Ragged | None, table: pa.Table, uids: pa.Array, *, replace: bool) -> Ragged:
    """Append the records of a uid-keyed table to those of their rows, or replace them with `replace`; other rows keep theirs."""
    new = Ragged.by_uid(table, uids)
    if old is None:
        return new
    if replace:
        untouched = np.flatnonzero(np.diff(new.start_N1) == 0)
        old = Ragged.by_uid(old.to_table(uids.take(pa.array(untouched)), untouched), uids)
    return old.merged(new)


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which would copy even a single chunk


def starts_of_runs(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Mask [N] of the values of a column that differ from the one before.

    >>> starts_of_runs(pa.array(["a", "a", "b"])).tolist()
    [True, False, True]
    """
    values = one_chunk(column)
    starts_N = np.ones(len(values), bool)
    starts_N[1:] = pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    return starts_N
