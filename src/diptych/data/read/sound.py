"""Validation of columns from foreign tables: strings must be UTF-8, and paths and texts of the right type.

What is wrong costs its row and names it. A column that as a whole cannot be what it is taken for is a `DataError` instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.paths import LONGEST_NAME, path_problem
from diptych.core.errors import DataError
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.rows import is_json

Ints = npt.NDArray[np.int64]


def sound_paths(paths: pa.Array, where: Callable[[int], str], bad: list[QuarantineEntry]) -> pa.Array:
    """The same column with null where no file can be called so."""
    suspicious = pc.or_(
        pc.greater(pc.binary_length(paths), LONGEST_NAME), pc.match_substring(pc.fill_null(paths, ""), "\0")
    ).fill_null(False)
    if not pc.any(suspicious).as_py():
        return paths
    faults = {row: fault for row in np.flatnonzero(suspicious).tolist() if (fault := path_problem(paths[row].as_py()))}
    bad += [QuarantineEntry("", "read", f"names its image by {fault}", where(row)) for row, fault in faults.items()]
    wrong = np.zeros(len(paths), bool)
    wrong[list(faults)] = True
    return pc.if_else(pa.array(wrong), pa.scalar(None, paths.type), paths)


def flat_texts(
    table: pa.Table, name: str, file: str, where: Callable[[int], str], bad: list[QuarantineEntry], longest: int
) -> tuple[pa.Array, Ints]:
    """A column of strings, of lists of strings or of JSON as (trimmed strings, row of each). A value that is no text, or has more than
    `longest` bytes, costs itself."""
    values, at = _strings_of(table, name, file, where, bad)
    lengths = pc.fill_null(pc.binary_length(values), 0)
    long = np.flatnonzero(pc.greater(lengths, longest).to_numpy(zero_copy_only=False))
    if not len(long):
        return values, at
    for number in long.tolist():
        reason = f"its {name} has {lengths[number].as_py():,} bytes, and at most {longest:,} are read of a text (longest_text)"
        bad.append(QuarantineEntry("", "text", reason, where(int(at[number]))))
    kept = np.delete(np.arange(len(at)), long)
    return values.take(pa.array(kept)), at[kept]


def _strings_of(
    table: pa.Table, name: str, file: str, where: Callable[[int], str], bad: list[QuarantineEntry]
) -> tuple[pa.Array, Ints]:
    """Trimmed strings of a column and the row of each."""
    column = table[name].combine_chunks()
    if is_json(table.schema.field(name)):
        return _json_texts(column, name, where, bad)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        at = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
        values = pc.list_flatten(column)
    else:
        at, values = np.arange(len(column)), column
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_nested(values.type):
        raise DataError(f"column '{name}' holds {table[name].type}", file=file, field=name, expected="texts, or lists of texts")
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type) or pa.types.is_fixed_size_binary(values.type):
        values = _decode_utf8(values, at, name, where, bad)
    try:
        strings = values.cast(pa.large_string())
    except pa.ArrowException:
        raise DataError(
            f"column '{name}' holds {table[name].type}", file=file, field=name, expected="texts, or lists of texts"
        ) from None
    return pc.utf8_trim_whitespace(strings), at


def _decode_utf8(values: pa.Array, at: Ints, name: str, where: Callable[[int], str], bad: list[QuarantineEntry]) -> pa.Array:
    """Bytes as the UTF-8 that they are, null where they are not."""
    decoded: list[str | None] = []
    for number, value in enumerate(values.to_pylist()):
        try:
            decoded.append(None if value is None else value.decode())
        except UnicodeDecodeError as error:
            reason = f"its {name} is not UTF-8: byte {error.start} is 0x{value[error.start]:02x}"
            bad.append(QuarantineEntry("", "text", reason, where(int(at[number]))))
            decoded.append(None)
    return pa.array(decoded, pa.large_string())


def _json_texts(column: pa.Array, name: str, where: Callable[[int], str], bad: list[QuarantineEntry]) -> tuple[pa.Array, Ints]:
    strings, at = [], []
    for row, stored in enumerate(column.to_pylist()):
        value = None if stored is None else json.loads(stored)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict | list):
                kind = "an object" if isinstance(item, dict) else "a list in a list"
                bad.append(QuarantineEntry("", "text", f"its {name} holds {kind}, not a text", where(row)))
            elif isinstance(item, str) and not _can_be_written(item):
                bad.append(
                    QuarantineEntry("", "text", f"its {name} holds half a surrogate pair, which is not a character", where(row))
                )
            elif item is not None:
                strings.append(str(item))
                at.append(row)
    return pc.utf8_trim_whitespace(pa.array(strings, pa.large_string())), np.array(at, np.int64)


def _can_be_written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_values(column: pa.ChunkedArray) -> list[Any] | None:
    """The values as Python has them; None if it cannot (a moment in the year 292,277)."""
    try:
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        return None
    return values
