"""Which row comes when: a pure function of seed, epoch and size, so that any position can be computed again anywhere.

Epochs are concatenated; a batch is a span of positions and may cross the seam between two of them, so no row is ever dropped.
Letters: N rows, S positions of a span.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng

Ints = npt.NDArray[np.int64]
Order = Callable[[int, int, int], Ints]
"""(seed, epoch, n) -> n rows. Equal arguments, equal rows, in every process."""


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, n: int) -> Ints:
    """A permutation of n rows; 8 bytes a row, kept for the epochs in use, read-only.

    >>> sorted(order(0, 5, 4).tolist())
    [0, 1, 2, 3]
    """
    row_N = keyed_rng(seed, "order", epoch).permutation(n)
    row_N.flags.writeable = False
    return row_N


@dataclass(frozen=True)
class Weighted:
    """An order that draws row i about `weights[i] / mean(weights)` times an epoch: its floor or its ceiling, never further off.

    Balanced sampling of concepts or clusters. Weights are one a row, not negative. Evenly spaced pointers with one random
    offset choose the rows, a permutation mixes them.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        weight_N = np.asarray(self.weights, np.float64)
        if not weight_N.size or not np.isfinite(weight_N).all() or weight_N.min() < 0 or weight_N.sum() <= 0:
            raise ConfigError("weights must be finite, not negative and not all 0, one a row")

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != len(self.weights):
            raise ConfigError(f"{len(self.weights)} weights for {n} rows (expected one a row)")
        return _weighted(self.weights, seed, epoch)


@lru_cache(maxsize=4)
def _weighted(weights: tuple[float, ...], seed: int, epoch: int) -> Ints:
    n = len(weights)
    rng = keyed_rng(seed, "weighted order", epoch)
    edge_N = np.cumsum(np.asarray(weights, np.float64))
    pointer_N = (np.arange(n) + rng.random()) * (edge_N[-1] / n)
    row_N = np.minimum(np.searchsorted(edge_N, pointer_N, side="right"), np.flatnonzero(weights)[-1])
    row_N = rng.permutation(row_N)
    row_N.flags.writeable = False
    return row_N


def span(seed: int, n: int, start: int, stop: int, *, order: Order = order) -> tuple[Ints, Ints]:
    """Epoch and row of the positions start..stop-1 of the concatenated epochs.

    >>> epoch_S, row_S = span(0, 3, 2, 7)
    >>> epoch_S.tolist()
    [0, 1, 1, 1, 2]
    """
    if n < 1:
        raise ConfigError("there are no rows to put in order (expected at least one sample)")
    position_S = np.arange(start, stop, dtype=np.int64)
    epoch_S, place_S = np.divmod(position_S, n)
    row_S = np.empty_like(place_S)
    for epoch in np.unique(epoch_S).tolist():
        row_S[epoch_S == epoch] = order(seed, epoch, n)[place_S[epoch_S == epoch]]
    return epoch_S, row_S
