"""Captions of single views of an object, ranked by their similarity with the view: the column ``view_captions``.

For each uid a list of {view, string, similarity}; `view` is the place of a picture among the views, `similarity` is null before ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from diptych.core.errors import DataError
from diptych.core.sample import Sample

VIEW_CAPTIONS = "view_captions"
VIEW_CAPTION = pa.struct([("view", pa.int32()), ("string", pa.string()), ("similarity", pa.float32())])


def view_captions(sample: Sample, column: str = VIEW_CAPTIONS) -> dict[int, list[str]]:
    """Captions by view, the most similar first; captions without a similarity follow those with one, in their order.

    Raises DataError for a column of another form.
    """
    value = sample.extras.get(column)
    if value is None:
        return {}
    expected = "a list of {view, string, similarity}, as `diptych curate view_captions` writes it"
    if not isinstance(value, list | tuple) or not all(_is_caption(row) for row in value):
        raise DataError(f"sample '{sample.uid}' has no captions of views", field=column, expected=expected)
    ranked = sorted(value, key=lambda row: -float("-inf" if row.get("similarity") is None else row["similarity"]))
    captions: dict[int, list[str]] = {}
    for row in ranked:
        captions.setdefault(int(row["view"]), []).append(row["string"])
    return captions


def view_caption_column(captions_by_uid: Mapping[str, Sequence[Mapping[str, Any]]]) -> pa.Table:
    """The column as a table; uids without captions have no row."""
    uids = sorted(uid for uid, rows in captions_by_uid.items() if rows)
    rows = pa.array([list(captions_by_uid[uid]) for uid in uids], pa.list_(VIEW_CAPTION))
    return pa.table({"uid": pa.array(uids, pa.string()), VIEW_CAPTIONS: rows})


def _is_caption(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("view"), int) and isinstance(row.get("string"), str)
