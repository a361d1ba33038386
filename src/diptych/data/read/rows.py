"""Python dicts, one per sample, to flat Arrow columns: in chunks, so that a million of them are never in memory together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from diptych.data.columns import column_of
from diptych.data.metadata import JSON

PIECE = 10_000


class Rows:
    """Collect dicts with `add`; `table` has a column for every key. Values that Arrow would change are kept as JSON strings."""

    def __init__(self, most_columns: int = 0) -> None:
        """most_columns: of all rows together; a row that would bring more is not taken. 0: any number."""
        self._most, self._names = most_columns, set[str]()
        self._rows: list[Mapping[str, Any]] = []
        self._pieces: list[pa.Table] = []

    def add(self, row: Mapping[str, Any]) -> str:
        """Take a row; returns the reason why it was not taken, or ""."""
        if self._most and not row.keys() <= self._names:
            if len(self._names | row.keys()) > self._most:
                new = next(name for name in row if name not in self._names)
                return f"brings the new column {new[:60]!r}, and at most {self._most:,} are read (most_columns)"
            self._names.update(row)
        self._rows.append(row)
        if len(self._rows) == PIECE:
            self._flush()
        return ""

    def __len__(self) -> int:
        return sum(map(len, self._pieces)) + len(self._rows)

    def table(self) -> pa.Table:
        self._flush()
        names = dict.fromkeys(name for piece in self._pieces for name in piece.column_names)
        columns, fields = [], []
        for name in names:
            field = self._field(name)
            parts = [_as(piece, name, field) for piece in self._pieces]
            columns.append(pa.chunked_array(parts, field.type).combine_chunks())
            fields.append(field)
        return pa.table(columns, schema=pa.schema(fields))

    def _flush(self) -> None:
        if not self._rows:
            return
        columns, fields = [], []
        for name in dict.fromkeys(key for row in self._rows for key in row):
            values = [row.get(name) for row in self._rows]
            column = column_of(values)
            if column is None and all(value is None for value in values):
                column = pa.nulls(len(values))
            if column is None:
                column = pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
                fields.append(pa.field(name, pa.string(), metadata=JSON))
            else:
                fields.append(pa.field(name, column.type))
            columns.append(column)
        if not fields:  # rows without any key still count
            columns, fields = [pa.nulls(len(self._rows))], [pa.field("", pa.null())]
        self._pieces.append(pa.table(columns, schema=pa.schema(fields)))
        self._rows = []

    def _field(self, name: str) -> pa.Field:
        """One type for all pieces: theirs when they agree, else JSON."""
        seen = [piece.schema.field(name) for piece in self._pieces if name in piece.column_names]
        real = [field for field in seen if field.type != pa.null()]
        if not real:
            return pa.field(name, pa.string())
        if any(field.metadata for field in real) or len({str(field.type) for field in real}) > 1:
            return pa.field(name, pa.string(), metadata=JSON)
        return pa.field(name, real[0].type)


def is_json(field: pa.Field) -> bool:
    """True if a column holds JSON texts that are parsed into values."""
    return (field.metadata or {}).get(b"diptych") == b"json"


def _as(piece: pa.Table, name: str, field: pa.Field) -> pa.Array:
    if name not in piece.column_names:
        return pa.nulls(len(piece), field.type)
    column, own = piece[name].combine_chunks(), piece.schema.field(name)
    if own.type == pa.null():
        return pa.nulls(len(piece), field.type)
    if is_json(field) and not is_json(own):
        return pa.array([None if value is None else json.dumps(value) for value in column.to_pylist()], pa.string())
    return column
