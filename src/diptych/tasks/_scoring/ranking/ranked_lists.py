"""Average precision and rank of the last match of ranked lists, with exact handling of ties.

A list is represented by its blocks of equal scores that contain a relevant item: `above` items precede the block, it has `tied`
items, of which `relevant` are relevant. Under `expected` a block contributes its mean over all orders.

    AP   the mean, over the relevant items, of the share of relevant items up to each
    trapezoid AP  the same, each share averaged with that of the items before it, 1 before the first place (PLIP's released test)
    INP  (number of relevant items) / (rank of the last), 1 where all stand in front (Ye et al., TPAMI 2021, 2001.04193)

Letters: Q blocks of a list, P places of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

Block = tuple[int, int, int]
"""above, tied, relevant"""


@dataclass(frozen=True, slots=True)
class RankedList:
    """Ranked list of a query as blocks of tied scores with a relevant item each, best scores first."""

    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, score_M: npt.NDArray[np.float32], relevant_M: npt.NDArray[np.bool_]) -> RankedList:
        """Ranked list from the scores of a gallery, higher is better."""
        value_V = np.unique(score_M[relevant_M])[::-1]
        ordered_M = np.sort(score_M)
        below_V = np.searchsorted(ordered_M, value_V, side="left")
        upto_V = np.searchsorted(ordered_M, value_V, side="right")
        count_V = [int((score_M[relevant_M] == value).sum()) for value in value_V]
        rows = zip(below_V.tolist(), upto_V.tolist(), count_V, strict=True)
        return cls(tuple((len(score_M) - upto, upto - below, count) for below, upto, count in rows))

    @property
    def average_precision(self) -> float:
        """Average precision, the mean over the orders of tied items."""
        total, before = 0.0, 0
        for above, tied, relevant in self.blocks:
            total += _block_precision(above, tied, relevant, before)
            before += relevant
        return total / before if before else float("nan")

    @property
    def trapezoid_precision(self) -> float:
        """Trapezoid average precision, the mean over the orders of tied items."""
        total, before = 0.0, 0
        for above, tied, relevant in self.blocks:
            total += (
                _block_precision(above, tied, relevant, before) + _block_precision_before(above, tied, relevant, before)
            ) / 2
            before += relevant
        return total / before if before else float("nan")

    @property
    def inverse_last(self) -> float:
        """Inverse negative penalty (INP), the mean over the orders of tied items."""
        if not self.blocks:
            return float("nan")
        above, tied, relevant = self.blocks[-1]
        return sum(block[2] for block in self.blocks) * _mean_inverse_last(above, tied, relevant)


@lru_cache(maxsize=65536)
def _block_precision(above: int, tied: int, relevant: int, before: int) -> float:
    """Sum of precisions at the block's relevant items. A relevant item is at each position p of the block with equal probability,
    and the (relevant - 1) others are uniformly distributed over the other positions, (p - 1) of which come before."""
    place_P = np.arange(1, tied + 1)
    ahead_P = before + 1 + ((relevant - 1) * (place_P - 1) / (tied - 1) if tied > 1 else 0.0)
    return float(relevant / tied * (ahead_P / (above + place_P)).sum())


@lru_cache(maxsize=65536)
def _block_precision_before(above: int, tied: int, relevant: int, before: int) -> float:
    """Sum of the precisions of the items before each of the block's relevant items; 1 if there are none."""
    place_P = np.arange(tied)
    ahead_P = before + ((relevant - 1) * place_P / (tied - 1) if tied > 1 else np.zeros(1))
    precision_P = np.where(above + place_P == 0, 1.0, ahead_P / np.maximum(above + place_P, 1))
    return float(relevant / tied * precision_P.sum())


@lru_cache(maxsize=65536)
def _mean_inverse_last(above: int, tied: int, relevant: int) -> float:
    """Mean of 1 / rank of the last relevant item: it is at position p with probability C(p - 1, relevant - 1) / C(tied,
    relevant)."""
    place_P = np.arange(relevant, tied + 1)
    log_P = _choose(place_P - 1, relevant - 1) - _choose(np.array([tied]), relevant)
    return float((np.exp(log_P) / (above + place_P)).sum())


def _choose(n_P: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    log_binomial: npt.NDArray[np.float64] = gammaln(n_P + 1.0) - gammaln(k + 1.0) - gammaln(n_P - k + 1.0)
    return log_binomial


def chance(gallery: Sequence[int], relevant: Sequence[int]) -> tuple[float, float]:
    """Mean AP and mean INP of random orders."""
    lists = [RankedList(((0, size, count),)) for size, count in zip(gallery, relevant, strict=True)]
    return float(np.mean([x.average_precision for x in lists])), float(np.mean([x.inverse_last for x in lists]))
