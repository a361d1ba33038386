"""Two models on the same test items: paired, with whole groups resampled. About these models, never about recipes.

A metric is here a mean over columns of the mean over the items of that column; R@1 has one column for each direction and accuracy
has one. Overlapping intervals of two models are no test: the difference is what is resampled.

Letters: N items, M columns, C groups, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng
from diptych.report.comparison_result import ItemDifference
from diptych.tasks._scoring.intervals import codes, percentiles, resampled_means

Floats = npt.NDArray[np.float64]
ItemValues = Callable[[pa.Table], Floats | None]
"""[N, M]: what each item adds to a metric, NaN where a column does not apply."""
FLIPS = 10_000
POWER = 2.8  # (1.96 + 0.84): a two-sided test at .05 with power .8
KEYS = ("uid", "query", "direction", "text", "case")


def item_view(first: pa.Table, other: pa.Table, values: ItemValues, *, draws: int = 2000, seed: int = 0) -> ItemDifference | None:
    """`other` minus `first` over the same items; None when the metric is no mean over items.

    values   of a metric by item (`Task.item_values`)
    Raises DataError when the two were not asked the same.
    """
    first, other = _sort_records(first), _sort_records(other)
    if _keys(first) != _keys(other):
        raise DataError("the two models were evaluated on different items", expected="records of the same task on the same rows")
    a_NM, b_NM = values(first), values(other)
    if a_NM is None or b_NM is None:
        return None
    groups = first.column("group").to_pylist()
    d_NM = b_NM - a_NM
    drawn_R = resampled_means(d_NM, groups, draws=draws, seed=seed).mean(axis=1)
    low, high = percentiles(drawn_R)
    applies_NM = ~np.isnan(d_NM)
    asked_N = applies_NM.any(axis=1)
    each_N = np.where(applies_NM, d_NM, 0.0).sum(axis=1)[asked_N]
    wins, losses = int((each_N > 0).sum()), int((each_N < 0).sum())
    single = len(set(groups)) == len(groups) and bool(np.isin(d_NM[applies_NM], (-1.0, 0.0, 1.0)).all()) and d_NM.shape[1] == 1
    return ItemDifference(
        difference=float(np.nanmean(d_NM, axis=0).mean()),
        low=low,
        high=high,
        p=sign_flip(group_parts(d_NM, groups), seed=seed),
        wins=wins,
        losses=losses,
        discordant=(wins + losses) / max(1, int(asked_N.sum())),
        items=int(asked_N.sum()),
        groups=len(set(groups)),
        mid_p=mcnemar(wins, losses)[1] if single else math.nan,
    )


def group_parts(d_NM: Floats, groups: list[str]) -> Floats:
    """[C]: what each group adds to the difference; they sum to it."""
    code_N, count = codes(groups)
    size_M = (~np.isnan(d_NM)).sum(axis=0)
    share_N = (np.nan_to_num(d_NM) / np.maximum(size_M, 1)).sum(axis=1) / d_NM.shape[1]
    part_C: Floats = np.bincount(code_N, weights=share_N, minlength=count).astype(np.float64)
    return part_C


def sign_flip(part_C: Floats, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p: how often random signs of the groups give a sum as far from 0. With (k + 1) / (flips + 1), never 0."""
    part_C = part_C[part_C != 0.0]
    if not len(part_C):
        return 1.0
    rng, seen = keyed_rng("sign flip", seed), 0
    edge = abs(part_C.sum()) * (1 - 1e-12)
    block = max(1, 4_000_000 // len(part_C))
    for start in range(0, flips, block):
        sign_RC = rng.integers(0, 2, size=(min(block, flips - start), len(part_C)), dtype=np.int8) * 2 - 1
        seen += int((np.abs(sign_RC @ part_C) >= edge).sum())
    return (seen + 1) / (flips + 1)


def mcnemar(wins: int, losses: int) -> tuple[float, float]:
    """Exact two-sided p and mid-p of a fair coin that fell so.

    >>> tuple(round(p, 4) for p in mcnemar(10, 25))
    (0.0167, 0.0113)
    """
    n, k = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0, 1.0
    both = 2 * float(stats.binom.cdf(k, n, 0.5))
    return min(1.0, both), both - float(stats.binom.pmf(k, n, 0.5))


def items_needed(discordant: float, difference: float = 0.01) -> int:
    """Independent items that show `difference` with power .8 when two models differ on that share of items.

    >>> items_needed(0.1)
    7840
    """
    return math.ceil(round(POWER**2 * discordant / difference**2, 6))


def detectable(discordant: float, items: int) -> float:
    """The difference that so many independent items show with power .8.

    >>> round(detectable(0.1, 1000), 3)
    0.028
    """
    return POWER * math.sqrt(discordant / items)


def _sort_records(records: pa.Table) -> pa.Table:
    return records.sort_by([(name, "ascending") for name in KEYS if name in records.column_names])


def _keys(records: pa.Table) -> list[Any]:
    return [records.column(name).to_pylist() for name in KEYS if name in records.column_names]
