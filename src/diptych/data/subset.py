"""Rows of a data set by uid: subsets by a list (saved by the search page, written by `diptych index export`, or typed by hand), rows
in order of uid, and texts with the languages that steps detected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.ragged import one_chunk, starts_of_runs


def read_uids(file: Path | str) -> list[str]:
    """Uids of a text file, one per line; empty lines and repeated uids are skipped."""
    file = Path(file)
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected="a text file with one uid per line")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError("it is not UTF-8 text", file=file, expected="a text file with one uid per line") from None
    uids = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not uids:
        raise DataError("it contains no uid", file=file, expected="one uid per line")
    return uids


def rows_of(data: Any, uids: Iterable[str]) -> list[int]:
    """The rows of a data set that have one of these uids, in the order of the data set."""
    chosen = set(uids)
    return [row for row, uid in enumerate(data.uids) if uid in chosen]


def subset(data: Any, uids: Sequence[str], *, whole: Any = None, file: object = None) -> Any:
    """The rows of `data` with these uids, in the order of the data, so that the order of a list changes nothing.

    whole  what `data` is a split of: uids of its other splits are left out, those that are nowhere are refused
    file   where the list comes from, for messages
    """
    if unknown := set(uids).difference((data if whole is None else whole).uids):
        first = next(uid for uid in uids if uid in unknown)
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        where = (data if whole is None else whole).name
        raise DataError(f"uid '{first}'{more} is not in '{where}'", file=file, expected="uids of the data")
    rows = rows_of(data, uids)
    if not rows:
        raise DataError(f"none of {len(uids):,} uids is in '{data.name}'", file=file, expected="uids of the training rows")
    return data.select(np.array(rows))


def uid_column(data: Dataset) -> pa.Array:
    """Uids of a data set in the order of its rows."""
    return data.arrow("uid").cast(pa.string()) if isinstance(data, Pool) else pa.array(data.uids, pa.string())


def sorted_rows(data: Dataset) -> npt.NDArray[np.int64]:
    """Rows of a data set in order of uid, int64 [N]."""
    rows: npt.NDArray[np.int64] = pc.sort_indices(uid_column(data)).to_numpy().astype(np.int64)
    return rows


def tagged_texts(data: Pool) -> pa.Table:
    """`Pool.texts_table`, where a first text without a language has that of the column `language`, as curation steps write it."""
    table = data.texts_table()
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
