"""Result of a step that drops near duplicates, as Arrow columns."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.curate.engine.verdicts import ColumnByUid, DropTable, string_column, uids_without
from diptych.data.ragged import one_chunk

Ints = npt.NDArray[np.int64]


class NearPairs(Mapping[int, tuple[int, float]]):
    """Dropped row -> (kept row, how alike they are), in the order in which they were added. No Python object is held a row.

    rows  number of all rows

    >>> pairs = NearPairs(9)
    >>> pairs.add(7, 2, 0.5)
    >>> pairs == {7: (2, 0.5)}, 2 in pairs, pairs.kept().tolist()
    (True, False, [2])
    """

    def __init__(self, rows: int) -> None:
        self._index_N = np.full(rows, -1, np.int32)
        self._gone, self._kept, self._alike = array("q"), array("q"), array("d")

    def add(self, row: int, kept: int, alike: float) -> None:
        self._index_N[row] = len(self._gone)
        self._gone.append(row)
        self._kept.append(kept)
        self._alike.append(alike)

    def gone(self) -> Ints:
        """Dropped rows, int64 [P]."""
        return np.array(self._gone, np.int64)

    def kept(self) -> Ints:
        """The kept row of each, int64 [P]."""
        return np.array(self._kept, np.int64)

    def alike(self) -> npt.NDArray[np.float64]:
        """Similarity, or distance, of the two of each, float64 [P]."""
        return np.array(self._alike, np.float64)

    def __getitem__(self, row: int) -> tuple[int, float]:
        index = int(self._index_N[row]) if 0 <= row < len(self._index_N) else -1
        if index < 0:
            raise KeyError(row)
        return self._kept[index], self._alike[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._gone)

    def __len__(self) -> int:
        return len(self._gone)


def duplicates_result(
    data: Dataset,
    slug: str,
    uids: pa.Array | pa.ChunkedArray,
    pairs: NearPairs,
    alike: Iterable[str],
    *,
    column: str,
    start: float,
    unreadable: pa.Table | None = None,
    notes: tuple[str, ...] = (),
) -> CurationStepResult:
    """Verdicts, and the uid of the kept row of each duplicate in a column.

    uids        uids of the compared rows
    pairs       position of a duplicate among them -> position of the kept row
    alike       how alike the two of each pair are, in words
    column      name of the column
    start       time at which the step began, by `time.perf_counter`
    unreadable  uid and reason of rows that could not be read
    """
    uids = one_chunk(uids.cast(pa.string()))
    gone, originals = uids.take(pa.array(pairs.gone())), uids.take(pa.array(pairs.kept()))
    near = pc.binary_join_element_wise("near ", originals, ": ", one_chunk(string_column(alike)), "")
    dropped, reasons = pa.chunked_array([gone]), pa.chunked_array([near])
    if unreadable is not None:
        dropped = pa.chunked_array([gone, one_chunk(unreadable["uid"])])
        reasons = pa.chunked_array([near, pc.binary_join_element_wise("unreadable: ", one_chunk(unreadable["reason"]), "")])
    order = pc.sort_indices(dropped)
    drops = DropTable.of_step(slug, dropped.take(order), reasons.take(order))
    columns = {column: ColumnByUid(pa.table({"uid": gone, column: originals}))} if pairs else {}
    seconds = time.perf_counter() - start
    return CurationStepResult(uids_without(data, dropped), drops, columns, seconds, notes=notes)
