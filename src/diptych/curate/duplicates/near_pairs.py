"""Near duplicates by row, in arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

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
