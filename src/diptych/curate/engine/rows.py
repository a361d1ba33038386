"""Rows of a pool in order of uid, and why some of them are dropped, without an object a row.

Letters: N rows of the pool, R strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset
from diptych.core.sample import Sample
from diptych.curate.engine.verdicts import BLOCK, DropTable, StringColumn, selected
from diptych.data.subset import sorted_rows, uid_column

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class OrderedRows:
    """Rows of a pool in order of uid. A *position* counts them from 0.

    row_N  row of the pool at each position
    uids   uid at each position
    """

    data: Dataset
    row_N: Ints
    uids: pa.Array

    @classmethod
    def of(cls, data: Dataset) -> Self:
        row_N = sorted_rows(data)
        return cls(data, row_N, uid_column(data).take(pa.array(row_N)))

    def __len__(self) -> int:
        return len(self.row_N)

    def samples(self, positions: Ints | None = None) -> Iterator[Sample]:
        """Samples at some positions, or at all, made one by one."""
        rows = self.row_N if positions is None else self.row_N[positions]
        for start in range(0, len(rows), BLOCK):
            yield from (self.data[row] for row in rows[start : start + BLOCK].tolist())

    def selected(self, positions: Ints) -> Any:
        """Data set of the rows at some positions, in their order."""
        return selected(self.data, self.row_N[positions])

    def positions(self, uids: Sequence[str] | pa.Array | pa.ChunkedArray) -> Ints:
        """Position of each uid, int64; -1 where the pool does not have it."""
        there = uids.cast(pa.string()) if isinstance(uids, pa.Array | pa.ChunkedArray) else pa.array(uids, pa.string())
        indices = pc.index_in(there, value_set=self.uids).fill_null(-1)
        position_N: Ints = indices.to_numpy(zero_copy_only=False) if isinstance(indices, pa.Array) else indices.to_numpy()
        return position_N.astype(np.int64)

    def with_image(self) -> npt.NDArray[np.bool_]:
        """Mask [N] of the positions with an image."""
        return np.fromiter((sample.image is not None for sample in self.samples()), bool, len(self))

    def strings(self, positions: Ints, of: Callable[[Sample], Iterable[str]]) -> tuple[Ints, pa.Array]:
        """Strings of the samples at some positions: for each the number of its sample among them [R], and the strings."""
        owners, blocks = [np.zeros(0, np.int64)], [pa.array([], pa.large_string())]
        for start in range(0, len(positions), BLOCK):
            lists = [list(of(sample)) for sample in self.samples(positions[start : start + BLOCK])]
            owners.append(np.repeat(np.arange(start, start + len(lists)), [len(some) for some in lists]))
            blocks.append(pa.array([string for some in lists for string in some], pa.large_string()))
        return np.concatenate(owners), pa.concat_arrays(blocks)


class Faults:
    """Reason for which each position is dropped, "" where it stays. The last one given counts. Of `BLOCK` different reasons there are
    Python strings; the others are Arrow columns."""

    def __init__(self, count: int) -> None:
        self.code_N = np.zeros(count, np.int32)
        self._blocks, self._stored = [pa.array([""])], 1
        self._code_of: dict[str, int] = {}

    def set(self, positions: Ints | int, reason: str) -> None:
        """One reason for some positions."""
        self.code_N[positions] = self._code(reason)

    def set_each(self, positions: Ints, reasons: Iterable[str]) -> None:
        """A reason for each of some positions."""
        for start, block in _blocks(reasons, zip_with=positions):
            self.code_N[positions[start : start + len(block)]] = list(map(self._code, block))

    def stays(self) -> npt.NDArray[np.bool_]:
        """Mask [N] of the positions that stay."""
        stays_N: npt.NDArray[np.bool_] = self.code_N == 0
        return stays_N

    def kinds(self) -> dict[str, int]:
        """Number of dropped rows by what stands before the colon of their reasons, in order of it."""
        kinds: Counter[str] = Counter()
        reasons = self._reasons()
        for reason, count in zip(StringColumn(reasons), np.bincount(self.code_N, minlength=len(reasons)), strict=True):
            if reason and count:
                kinds[reason.split(":")[0]] += int(count)
        return dict(sorted(kinds.items()))

    def verdicts(self, slug: str, uids: pa.Array) -> tuple[StringColumn, DropTable]:
        """Kept uids and dropped rows; `uids` are those of all positions."""
        stays_N = self.stays()
        stays, reasons = pa.array(stays_N), self._reasons().take(pa.array(self.code_N[~stays_N]))
        return StringColumn(uids.filter(stays)), DropTable.of_step(slug, uids.filter(pc.invert(stays)), reasons)

    def _code(self, reason: str) -> int:
        if not reason:
            return 0
        code = self._code_of.setdefault(reason, self._stored + len(self._code_of))
        if len(self._code_of) == BLOCK:
            self._blocks.append(pa.array(self._code_of))
            self._stored, self._code_of = self._stored + BLOCK, {}
        return code

    def _reasons(self) -> pa.ChunkedArray:
        return pa.chunked_array([*self._blocks, pa.array(self._code_of, pa.string())])


def _blocks(values: Iterable[str], *, zip_with: Ints) -> Iterator[tuple[int, list[str]]]:
    """Values in lists of BLOCK, each with the number of its first. Raises ValueError unless there are as many as in `zip_with`."""
    start, block = 0, list[str]()
    for _, value in zip(range(len(zip_with)), values, strict=True):
        block.append(value)
        if len(block) == BLOCK:
            yield start, block
            start, block = start + BLOCK, []
    if block:
        yield start, block
