"""Facts about the images of a pool, such as hashes, as Arrow columns in order of uid; computed in parts, so interrupted runs
resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset
from diptych.core.errors import DecodeError
from diptych.core.image import ImageSource
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.parts import PartStore
from diptych.data.subset import uid_column

PART_ROWS = 16_384
DIGEST = pa.binary(32)
"""SHA-256."""

Ints = npt.NDArray[np.int64]


def image_facts(
    data: Dataset, parts: PartStore, facts: Callable[[ImageSource], tuple[Any, ...]], schema: pa.Schema, name: str = "images"
) -> pa.Table:
    """Table of "row" (of `data`), "uid", the columns of `schema` and "fault", in order of uid.

    facts   values of the columns for an image; they are null without an image, and where it cannot be read: then "fault" says why
    name    of the pass, among those of one step
    """
    uids = uid_column(data)
    order = pc.sort_indices(uids).cast(pa.int64())
    whole = pa.schema([*schema, pa.field("fault", pa.string())])
    missing = (None,) * (len(schema) + 1)

    def one(row: int) -> tuple[Any, ...]:
        image = data[row].image
        if image is None:
            return missing
        try:
            return *facts(image), None
        except (DecodeError, OSError) as error:
            return *missing[:-1], str(error)

    def work(part: pa.Table) -> pa.Table:
        rows = part["row"].to_pylist()
        made = list(map(one, with_bar(rows, len(rows), "looking at pictures", least=100)))
        return pa.table([pa.array([row[n] for row in made], field.type) for n, field in enumerate(whole)], schema=whole)

    table = pa.table({"row": order, "uid": uids.take(order)})
    made = dataclasses.replace(parts, rows=min(parts.rows, PART_ROWS)).mapped(table, name, work).combine_chunks()
    for column in whole.names:
        table = table.append_column(column, made[column])
    return table


def first_equal(column: pa.Array | pa.ChunkedArray) -> Ints:
    """Position of the first equal value for each value of a column, [N]; -1 for a null.

    >>> first_equal(pa.array(["b", "a", None, "a"])).tolist()
    [0, 1, -1, 1]
    """
    whole = pa.chunked_array([column]).combine_chunks() if isinstance(column, pa.Array) else column.combine_chunks()
    code_N = whole.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    codes, position_C = np.unique(code_N, return_index=True)
    first_C = np.where(codes < 0, -1, position_C)
    first_N: Ints = first_C[np.searchsorted(codes, code_N)].astype(np.int64)
    return first_N


def repeated(first_N: Ints) -> npt.NDArray[np.bool_]:
    """Mask [N] of values that occur more than once, by `first_equal`."""
    count_N = np.bincount(first_N[first_N >= 0], minlength=len(first_N))
    twice_N: npt.NDArray[np.bool_] = (first_N >= 0) & (count_N[first_N] > 1) if len(first_N) else np.zeros(0, bool)
    return twice_N
