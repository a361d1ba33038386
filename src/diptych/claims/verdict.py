"""Is the difference between two recipes real? Training noise decides, so the unit is the seed.

The test is a two-sided t over seed-paired differences at .05. Intervals over test items or groups are about these runs only: when
training noise is larger than item noise they reject true null hypotheses far too often, so they never decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from diptych.core.errors import ConfigError

LEVEL = 0.05
MINIMUM_SEEDS = 3
TUNING_SEEDS = frozenset(range(5))
FRESH_SEEDS = (101, 102, 103, 104, 105)

Word = Literal["shown", "not shown", "reversed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Method minus baseline over seeds: mean, 95 % t interval, two-sided p, and the standard deviation over seeds.

    All are 0 apart from p = 1 when every difference is zero.
    """

    mean: float
    low: float
    high: float
    p: float
    spread: float
    seeds: int


def paired_difference(baseline: Sequence[float], method: Sequence[float]) -> Difference:
    """The t interval over seed-paired differences. Needs the two lists in the same order of seeds, at least two seeds."""
    if len(baseline) != len(method):
        raise ConfigError(f"{len(baseline)} baseline values but {len(method)} method values: pairs need the same seeds")
    if len(baseline) < 2:
        raise ConfigError("a difference over seeds needs at least two seeds")
    d = np.asarray(method, float) - np.asarray(baseline, float)
    if not np.isfinite(d).all():
        raise ConfigError("a score is not a finite number, so the difference says nothing")
    n, mean, spread = len(d), float(d.mean()), float(d.std(ddof=1))
    if spread == 0.0:
        return Difference(mean, mean, mean, 1.0 if mean == 0.0 else 0.0, 0.0, n)
    error = spread / math.sqrt(n)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, mean - half, mean + half, p, spread, n)


def verdict(difference: Difference, *, higher_is_better: bool = True, level: float = LEVEL) -> Word:
    """`shown` when the method is better, `reversed` when it is worse, `not shown` when the data do not say."""
    if difference.seeds < MINIMUM_SEEDS:
        raise ConfigError(f"a verdict needs at least {MINIMUM_SEEDS} seeds, got {difference.seeds}")
    if difference.p >= level:
        return "not shown"
    return "shown" if (difference.mean > 0) == higher_is_better else "reversed"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values for several comparisons (Holm, 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = round(running, 12)
    return adjusted


def seeds_needed(spread: float, difference: float, *, power: float = 0.8) -> int:
    """How many seeds a paired t test at .05 needs to see `difference` with the given power.

    `spread` is the standard deviation of the seed-paired differences.
    """
    if spread <= 0 or difference == 0:
        return MINIMUM_SEEDS
    for n in range(2, 10_000):
        shift = abs(difference) / spread * math.sqrt(n)
        critical = stats.t.ppf(1 - LEVEL / 2, n - 1)
        if 1 - stats.nct.cdf(critical, n - 1, shift) >= power:
            return max(n, MINIMUM_SEEDS)
    return 10_000
