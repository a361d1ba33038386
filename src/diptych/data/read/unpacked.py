"""Size of a Parquet table in memory, computed before loading it: a few bytes of a file may expand to gigabytes."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diptych.core.disk.paths import open_file
from diptych.core.errors import DataError

RATIO = 100
"""Times a file's own bytes that its table may always take: texts pack to a tenth or so."""


def refuse_expansion(path: Path, most: int) -> None:
    """Raise DataError for a Parquet table of more than `most` bytes in memory that also takes over 100 times the bytes of its file."""
    try:
        with open_file(path) as file:
            size = path.stat().st_size
            limit = max(most, RATIO * size)
            unpacked = _unpacked_bytes(file, limit)
            if unpacked > limit:
                raise DataError(
                    f"has {size:,} bytes and would take {unpacked:,} in memory, of which at most {limit:,} are allowed",
                    file=path,
                    expected=f"a smaller table, or unpacked_bytes={unpacked}",
                )
    except (pa.ArrowException, OSError, ValueError):
        return  # which the reading itself will name


def _unpacked_bytes(file: BinaryIO, limit: int) -> int:
    """Bytes of all columns when each value stands for itself. Strings that a dictionary may repeat are read as a dictionary."""
    total, repeated = 0, dict[str, int]()
    metadata = pq.ParquetFile(file).metadata
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in map(row_group.column, range(row_group.num_columns)):
            strings = column.physical_type == "BYTE_ARRAY"
            total += column.total_uncompressed_size if strings else max(column.total_uncompressed_size, 8 * column.num_values)
            if strings and column.has_dictionary_page:
                at_most = column.num_values * column.total_uncompressed_size
                repeated[column.path_in_schema] = repeated.get(column.path_in_schema, 0) + at_most
    if total > limit or total + sum(repeated.values()) <= limit:
        return total
    file.seek(0)
    table = pq.ParquetFile(file, read_dictionary=list(repeated)).read(columns=list(repeated))
    return total + sum(_string_bytes(chunk) for column in table.columns for chunk in column.chunks)


def _string_bytes(array: pa.Array) -> int:
    """Total bytes of the strings of an array, at any nesting depth."""
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary).cast(pa.int64())
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(array.type):
        return sum(_string_bytes(part) for part in array.flatten())
    if pa.types.is_map(array.type):
        return _string_bytes(array.keys) + _string_bytes(array.items)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return _string_bytes(array.flatten())
    return 0
