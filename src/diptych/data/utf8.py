"""Rows of a table whose strings are valid UTF-8, which Parquet does not guarantee."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.data.quarantine import QuarantineEntry

Ints = npt.NDArray[np.int64]


def utf8_rows(table: pa.Table, file: Path, bad: list[QuarantineEntry]) -> Ints:
    """The rows of a Parquet table whose strings are UTF-8, at any nesting depth: Parquet does not guarantee it."""
    keep = np.ones(table.num_rows, bool)
    for name in table.column_names:
        column = table[name]
        if _is_valid(column):
            continue
        for row in _invalid_rows(column):
            if keep[row]:
                bad.append(QuarantineEntry("", "text", f"row {row}: its {name} is not UTF-8", str(file)))
            keep[row] = False
    return np.flatnonzero(keep)


def _is_valid(column: pa.ChunkedArray | pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _invalid_rows(column: pa.ChunkedArray) -> Iterator[int]:
    """By halves, so that one bad row in many is found in few looks."""
    if pa.types.is_dictionary(column.type):  # whose slices have all of its values
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
    spans = [(0, len(column))]
    while spans:
        start, stop = spans.pop()
        # A slice shares the buffers of the whole; taken out, it holds its own values alone.
        if _is_valid(column.slice(start, stop - start).combine_chunks().take(pa.array(range(stop - start), pa.int64()))):
            continue
        if stop - start == 1:
            yield start
        else:
            middle = (start + stop) // 2
            spans += [(middle, stop), (start, middle)]
