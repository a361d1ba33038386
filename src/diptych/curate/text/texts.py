"""Texts of a pool as a table in order of uid: the input of every step over texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset
from diptych.data.dataset import Pool
from diptych.data.ragged import one_chunk


def texts_of(data: Dataset, *, language: str = "", origins: tuple[str, ...] = ()) -> pa.Table:
    """Table of the positive texts: "row" (0..N-1), "uid", "string", "language", "origin", in order of uid, then as the sample has them.

    A first text whose language is unknown has that of the column `language`, as `laion` writes it.

    language  language of the texts; texts of unknown language are included; "" uses all
    origins   origins of the texts; empty: all except negatives
    """
    if isinstance(data, Pool):
        table = _with_tags(data.texts_table(), data)
    else:
        samples = [data[row] for row in range(len(data))]
        table = pa.table(
            {
                "uid": pa.array([s.uid for s in samples for _ in s.texts], pa.string()),
                "string": pa.array([t.string for s in samples for t in s.texts], pa.string()),
                "language": pa.array([t.language for s in samples for t in s.texts], pa.string()),
                "origin": pa.array([t.origin for s in samples for t in s.texts], pa.string()),
            }
        )
    mask = pc.not_equal(table["origin"], "negative")
    if origins:
        mask = pc.and_(mask, pc.is_in(table["origin"], value_set=pa.array(origins)))
    if language:
        mask = pc.and_(mask, pc.is_in(table["language"], value_set=pa.array(["", language])))
    table = table.filter(mask)
    position = pa.array(np.arange(table.num_rows))
    order = pc.sort_indices(pa.table({"uid": table["uid"], "place": position}), [("uid", "ascending"), ("place", "ascending")])
    return table.take(order).append_column("row", position)


def starts_of_runs(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Mask [N] of the values of a column that differ from the one before.

    >>> starts_of_runs(pa.array(["a", "a", "b"])).tolist()
    [True, False, True]
    """
    values = one_chunk(column)
    starts_N = np.ones(len(values), bool)
    starts_N[1:] = pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    return starts_N


def _with_tags(table: pa.Table, data: Pool) -> pa.Table:
    """Texts with the language of the column `language` where the first text of a row has none of its own."""
    if not data.is_flat("language") or not table.num_rows:
        return table
    tags = pa.chunked_array([data.arrow("language")]).combine_chunks()
    if not (pa.types.is_string(tags.type) or pa.types.is_large_string(tags.type)):
        return table
    uids = one_chunk(table["uid"].cast(pa.string()))
    first = starts_of_runs(uids)
    tag = tags.take(pc.index_in(uids, value_set=data.arrow("uid").cast(pa.string()))).cast(pa.string())
    own = table["language"].cast(pa.string())
    tagged = pc.if_else(pc.and_(pa.array(first), pc.equal(own, "")), pc.fill_null(tag, ""), own)
    return table.set_column(table.column_names.index("language"), "language", tagged)
