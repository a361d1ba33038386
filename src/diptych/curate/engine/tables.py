"""Columns that steps make, as uid-keyed tables."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.curate.engine.verdicts import ColumnByUid
from diptych.data.columns import column_of


def as_table(name: str, values: Mapping[str, Any] | pa.Table) -> pa.Table:
    """Columns "uid" and `name`, in order of uid."""
    if isinstance(values, pa.Table | ColumnByUid):
        values = values.table if isinstance(values, ColumnByUid) else values
        return values.select(["uid", name]).take(pc.sort_indices(values["uid"])).combine_chunks()
    uids = sorted(values)
    ordered = [values[uid] for uid in uids]
    column = column_of(ordered)
    return pa.table({"uid": pa.array(uids, pa.string()), name: pa.array(ordered) if column is None else column})


def joined(
    name: str, old: Mapping[str, Any] | pa.Table | None, new: Mapping[str, Any] | pa.Table
) -> Mapping[str, Any] | pa.Table:
    """Values of two steps under one name; of one uid the later one counts."""
    if old is None:
        return new
    before, after = as_table(name, old), as_table(name, new)
    if not isinstance(old, pa.Table) and not isinstance(new, pa.Table) and before.schema != after.schema:
        return {**old, **new}
    missing = pc.invert(pc.is_in(before["uid"], value_set=after["uid"].combine_chunks()))
    both = as_table(name, pa.concat_tables([before.filter(missing), after.cast(before.schema)]))
    return both if isinstance(old, pa.Table) or isinstance(new, pa.Table) else ColumnByUid(both)


def arrow_names(kind: pa.DataType) -> pa.DataType:
    """A type with Arrow's names of nested fields, which Parquet changes.

    >>> arrow_names(pa.list_(pa.field("element", pa.int64())))
    ListType(list<item: int64>)
    """
    if pa.types.is_list(kind):
        return pa.list_(arrow_names(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(arrow_names(field.type)) for field in kind])
    return kind


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as the content of a Parquet file; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
