"""Batches in which every second row is visually similar to the one before it: the hard images of NegCLIP."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.data.load.order import order

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NeighbourOrder:
    """An order of pairs: a row as a permutation has it, then one of its neighbours at random; any row if it has none.

    n positions are n / 2 pairs, so two epochs visit every row once as the first of a pair. Pairs run on over the seam of two epochs.

    near  the rows that may follow a row, for every row
    """

    near: tuple[tuple[int, ...], ...]

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != len(self.near):
            raise ConfigError(f"neighbours of {len(self.near)} rows for {n} rows (expected one list a row)")
        return _pair_rows(self, seed, epoch)

    def pair(self, seed: int, number: int) -> tuple[int, int]:
        """The pair of that number, counted over all epochs."""
        turn, position = divmod(number, len(self.near))
        row = int(order(seed, turn, len(self.near))[position])
        choices = self.near[row] or range(len(self.near))
        return row, choices[int(keyed_rng(seed, "neighbour", number).integers(len(choices)))]


@lru_cache(maxsize=4)
def _pair_rows(pairs: NeighbourOrder, seed: int, epoch: int) -> Ints:
    n = len(pairs.near)
    first = epoch * n
    numbers = range(first // 2, (first + n + 1) // 2)
    row_N = np.array([row for number in numbers for row in pairs.pair(seed, number)], np.int64)
    row_N = row_N[first % 2 :][:n]
    row_N.flags.writeable = False
    return row_N
