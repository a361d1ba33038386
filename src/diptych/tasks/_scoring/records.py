"""Returns one row per item, with everything that scoring needs, so that metrics can be recomputed without the model.

Facts about all rows (template set, fingerprints, counts) are stored as JSON under one key of the table's metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.disk.files import atomic_file
from diptych.core.errors import RunError

KEY = b"diptych"


def with_facts(records: pa.Table, **facts: Any) -> pa.Table:
    """Records with `facts` added to the schema metadata."""
    metadata = dict(records.schema.metadata or {})
    metadata[KEY] = json.dumps({**facts_of(records), **facts}, ensure_ascii=False, allow_nan=False).encode()
    return records.replace_schema_metadata(metadata)


def facts_of(records: pa.Table) -> dict[str, Any]:
    """Facts that `with_facts` stored in the schema metadata; empty if there are none."""
    plain: dict[str, Any] = json.loads((records.schema.metadata or {}).get(KEY, b"{}"))
    return plain


def recorded_ties(records: pa.Table) -> Any:
    """Tie policy in the records' facts; "expected" by default."""
    return facts_of(records).get("options", {}).get("ties", "expected")


def array(records: pa.Table, name: str) -> npt.NDArray[Any]:
    """Column of numbers or strings as a NumPy array."""
    values: npt.NDArray[Any] = np.asarray(records.column(name).to_pylist())
    return values


def write_records(path: Path, records: pa.Table) -> None:
    """Writes records as Parquet atomically: to a temporary file, then renamed."""
    with atomic_file(path) as file:
        pq.write_table(records, file, compression="zstd")


def read_records(path: Path) -> pa.Table:
    """Reads records from a Parquet file. Raises RunError if it is missing or unreadable."""
    if not path.is_file():
        raise RunError(f"{path}: there are no records here (expected a Parquet file that an evaluation wrote)")
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
