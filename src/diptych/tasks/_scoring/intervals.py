"""Cluster bootstrap: intervals over items that are resampled in groups.

Captions of one image, or images of one concept, tend to be right or wrong together; resampling them individually makes the
interval too narrow. Here whole groups are drawn with replacement, 2,000 times, and the middle 95 % of the recomputed metric is
reported. With zero draws there is no interval.
The interval describes *this* model on data like these; it does not include the variance of retraining.

Letters: N items, M values per item, R draws, C groups, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.core.randomness import keyed_rng

DRAWS = 2000
CELLS = 8_000_000  # weights held at once
REMEMBERED = 1_000_000  # weights of a block that is cached for the next metric: eight megabytes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def codes(groups: Sequence[str]) -> tuple[Ints, int]:
    """Integer codes of groups from 0, and the number of groups."""
    names, code_N = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    return code_N.astype(np.int64).reshape(-1), len(names)


def resampled_means(value_NM: Floats, groups: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """[R, M]: the mean of each column in every draw, the same draws for all columns. NaN marks "does not apply to this item".

    So any function of means can be given an interval: `percentiles(means[:, 0] + means[:, 1])`.
    """
    code_N, count = codes(groups)
    applies_NM = ~np.isnan(value_NM)
    total_CM, size_CM = np.zeros((count, value_NM.shape[1])), np.zeros((count, value_NM.shape[1]))
    np.add.at(total_CM, code_N, np.where(applies_NM, value_NM, 0.0))
    np.add.at(size_CM, code_N, applies_NM.astype(np.float64))
    blocks = [_ratio(weight_RC @ total_CM, weight_RC @ size_CM) for weight_RC in group_weights(count, draws, seed, count)]
    return np.concatenate([np.zeros((0, value_NM.shape[1])), *blocks])


def resampled_medians(value_N: Floats, groups: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """[R]: the median of the items that apply (not NaN) in every draw, from the same draws as `resampled_means`."""
    code_N, count = codes(groups)
    keep_N = np.flatnonzero(~np.isnan(value_N))
    order_N = keep_N[np.argsort(value_N[keep_N], kind="stable")]
    sorted_N, owner_N = value_N[order_N], code_N[order_N]
    medians = [np.zeros(0)]
    for weight_RC in group_weights(count, draws, seed, max(count, len(order_N))):
        reached_RN = np.cumsum(weight_RC[:, owner_N], axis=1)
        total_R = reached_RN[:, -1]
        lower, upper = (_first_above(reached_RN, edge) for edge in ((total_R - 1) // 2, total_R // 2))
        middle_R = (sorted_N[lower] + sorted_N[upper]) / 2
        medians.append(np.where(total_R > 0, middle_R, np.nan))
    return np.concatenate(medians)


def resampled_class_means(value_N: Floats, classes: Ints, groups: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """[R]: the mean over classes of the mean within the class; a class that a draw leaves out does not count in that draw."""
    code_N, count = codes(groups)
    width = int(classes.max()) + 1
    total_CK = sparse.csr_matrix((value_N, (code_N, classes)), shape=(count, width))
    size_CK = sparse.csr_matrix((np.ones(len(value_N)), (code_N, classes)), shape=(count, width))
    means = [np.zeros(0)]
    for weight_RC in group_weights(count, draws, seed, max(count, width)):
        recall_RK = _ratio((total_CK.T @ weight_RC.T).T, (size_CK.T @ weight_RC.T).T)
        present_RK = ~np.isnan(recall_RK)
        means.append(_ratio(np.where(present_RK, recall_RK, 0.0).sum(axis=1), present_RK.sum(axis=1)))
    return np.concatenate(means)


def percentiles(draws_R: Floats, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the draws (the middle `level`); NaN twice when nothing varied because there was only one group."""
    good_R = draws_R[~np.isnan(draws_R)]
    if not len(good_R):
        return float("nan"), float("nan")
    low, high = np.quantile(good_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def group_weights(count: int, draws: int, seed: int, width: int) -> Iterator[Floats]:
    """Yields blocks of [R, C]: the count of each group in each draw. A single group cannot vary: its draws are empty (NaN later).

    A draw is seeded by its index, so all callers see the same draws for any block size.
    """
    block = max(1, CELLS // max(width, 1))
    for start in range(0, draws, block):
        rows = range(start, min(start + block, draws))
        yield (_drawn if len(rows) * count <= REMEMBERED else _drawn.__wrapped__)(count, rows, seed)


@lru_cache(maxsize=8)
def _drawn(count: int, rows: range, seed: int) -> Floats:
    """Weights of these draws, read-only since all metrics of a task share them."""
    weight_RC = np.zeros((len(rows), count))
    if count > 1:
        for index, draw in enumerate(rows):
            chosen = keyed_rng("interval", seed, draw).integers(count, size=count)
            weight_RC[index] = np.bincount(chosen, minlength=count)
    weight_RC.setflags(write=False)
    return weight_RC


def _first_above(reached_RN: Floats, edge_R: Floats) -> Ints:
    """First index of each row whose running weight exceeds the edge (0-based order statistic)."""
    above: Ints = np.minimum((reached_RN <= edge_R[:, None]).sum(axis=1), reached_RN.shape[1] - 1)
    return above


def _ratio(total: Floats, size: npt.NDArray[Any]) -> Floats:
    ratio: Floats = np.divide(total, size, out=np.full(total.shape, np.nan), where=size > 0)
    return ratio
