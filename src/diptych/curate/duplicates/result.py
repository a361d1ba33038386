"""Result of a step that drops near duplicates, as Arrow columns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.curate.duplicates.near_pairs import NearPairs
from diptych.curate.engine.verdicts import ColumnByUid, DropTable, string_column, uids_without
from diptych.data.ragged import one_chunk


def duplicates_result(
    data: Dataset,
    slug: str,
    uids: pa.Array | pa.ChunkedArray,
    pairs: NearPairs,
    alike: Iterable[str],
    *,
    column: str,
    start: float,
    unreadable: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> CurationStepResult:
    """Verdicts, and the uid of the kept row of each duplicate in a column.

    uids        uids of the compared rows
    pairs       position of a duplicate among them -> position of the kept row
    alike       how alike the two of each pair are, in words
    column      name of the column
    start       time at which the step began, by `time.perf_counter`
    unreadable  reasons of rows that could not be read, by uid
    """
    uids, unreadable = one_chunk(uids.cast(pa.string())), unreadable or {}
    gone, originals = uids.take(pa.array(pairs.gone())), uids.take(pa.array(pairs.kept()))
    near = pc.binary_join_element_wise("near ", originals, ": ", one_chunk(string_column(alike)), "")
    dropped = pa.chunked_array([gone, pa.array(list(unreadable), pa.string())])
    reasons = pa.chunked_array([near, string_column(f"unreadable: {reason}" for reason in unreadable.values()).combine_chunks()])
    order = pc.sort_indices(dropped)
    drops = DropTable.of_step(slug, dropped.take(order), reasons.take(order))
    columns = {column: ColumnByUid(pa.table({"uid": gone, column: originals}))} if pairs else {}
    seconds = time.perf_counter() - start
    return CurationStepResult(uids_without(data, dropped), drops, columns, seconds, notes=notes)
