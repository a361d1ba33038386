"""Export of an index to files that other tools read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.disk.files import write_atomic
from diptych.index.engine.store import PAGE, DenseSpace, IndexItem, Space, SparseVector, Vector
from diptych.index.filters import Kind

TYPES = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}


def export_uids(uids: Sequence[str], out: Path) -> int:
    """Write the uids, one per line."""
    write_atomic(out, "".join(f"{uid}\n" for uid in uids))
    return len(uids)


def export_parquet(
    items: Iterator[IndexItem], columns: Mapping[str, Kind], spaces: Sequence[Space], terms: Sequence[str], out: Path
) -> int:
    """One row per item: uid, the columns, and a column a space: the vector, several vectors, or a map from terms to weights. The file
    appears when it is whole. Returns the number of rows."""
    names = [name for name in columns if name != "uid"]
    schema = pa.schema(
        [("uid", pa.string()), *((name, TYPES[columns[name]]) for name in names)]
        + [(space_column(space), _vector_type(space)) for space in spaces]
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    part, rows = out.with_name(f".{out.name}.part"), 0
    with pq.ParquetWriter(part, schema) as writer:
        while page := list(islice(items, PAGE)):
            data: dict[str, list[Any]] = {"uid": [item.payload["uid"] for item in page]}
            data |= {name: [_value(item.payload.get(name), columns[name]) for item in page] for name in names}
            data |= {space_column(s): [_as_list(item.vectors.get(s.name), terms) for item in page] for s in spaces}
            writer.write_table(pa.table(data, schema))
            rows += len(page)
    part.replace(out)
    return rows


def space_column(space: Space) -> str:
    """Column name of a space: "vector" for the unnamed one, the embedding."""
    return f"vector_{space.name}" if space.name else "vector"


def _vector_type(space: Space) -> pa.DataType:
    if not isinstance(space, DenseSpace):
        return pa.map_(pa.string(), pa.float32())
    vector = pa.list_(pa.float32(), space.dim)
    return pa.list_(vector) if space.many else vector


def _as_list(vector: Vector | None, terms: Sequence[str]) -> Any:
    if isinstance(vector, SparseVector):
        return [(terms[index], float(value)) for index, value in zip(vector.indices, vector.values, strict=True)]
    return None if vector is None else np.asarray(vector).tolist()


def _value(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind == "texts":
        return list(value) if isinstance(value, list | tuple) else [value]
    return bool(value) if kind == "boolean" else value
