"""Texts of a pool as a table in order of uid: the input of every step over texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset
from diptych.data.dataset import Pool
from diptych.data.subset import tagged_texts


def texts_of(data: Dataset, *, language: str = "", origins: tuple[str, ...] = ()) -> pa.Table:
    """Table of the positive texts: "row" (0..N-1), "uid", "string", "language", "origin", in order of uid, then as the sample has them.

    A first text whose language is unknown has that of the column `language`, as `laion` writes it.

    language  language of the texts; texts of unknown language are included; "" uses all
    origins   origins of the texts; empty: all except negatives
    """
    if isinstance(data, Pool):
        table = tagged_texts(data)
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
