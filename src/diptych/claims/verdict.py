"""Is the difference between two recipes real, does it matter, and could the test have said anything? The unit is the seed.

Two margins are declared before the run: the smallest difference that would matter, and how close two arms have to be to count as
equal. The verdict comes from seed-paired differences d (Student's t):

    equal within the margin   two one-sided tests at .05: d lies within the equivalence margin (Schuirmann, 1987)
    shown, reversed           two-sided t at .05, and the 95 % interval reaches a difference that matters
    open                      none of these
    no verdict                withheld: there are too few seeds, or the baseline is no measure (`withheld`)

The method is judged against the best of baseline and controls. The best is the baseline, or there is no verdict: where a control is above
it, or it is not above a control that sees no picture (chance), the difference to it says nothing.

A significant interval excludes zero, so its far end is less than twice the mean: a difference below half of what matters is never
`shown`, however small its spread. Intervals over test items are about these runs only and never decide about recipes: when training
noise is larger than item noise they reject true null hypotheses far too often.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from diptych.core.errors import ConfigError
from diptych.report.comparison_result import Word

LEVEL = 0.05
MINIMUM_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Margins:
    """Declared before the run, in units of the metric.

    matters      the smallest difference that would matter to a user
    equivalence  arms closer than this count as equal; at most `matters`
    """

    matters: float
    equivalence: float

    def __post_init__(self) -> None:
        if not 0.0 < self.equivalence <= self.matters < math.inf:
            raise ConfigError(f"margins are {self.equivalence} and {self.matters} (expected 0 < equivalence <= matters)")


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


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdict of a claim from the scores of its seeds.

    why      what withheld the verdict
    reached  control -> the arms ("baseline", "method") that are not above it
    """

    difference: Difference
    p_equal: float
    verdict: Word
    why: str = ""
    reached: dict[str, tuple[str, ...]] = field(default_factory=dict)


def judge(
    baseline: Sequence[float],
    method: Sequence[float],
    controls: Mapping[str, Sequence[float]],
    margins: Margins,
    *,
    higher_is_better: bool = True,
    blind: Collection[str] = (),
) -> Judgement:
    """The verdict on one value a seed for every side, in the same order of seeds.

    blind  controls that see no picture: what chance gives. A baseline that is not shown to be above them has learned nothing
    """
    difference = paired_difference(baseline, method)
    p_equal = equivalence_p(difference, margins.equivalence)
    if difference.seeds < MINIMUM_SEEDS:
        raise ConfigError(f"a verdict needs at least {MINIMUM_SEEDS} seeds, got {difference.seeds}")
    why, reached = withheld(baseline, method, controls, higher_is_better=higher_is_better, blind=blind)
    if why:
        return Judgement(difference, p_equal, "no verdict", why, reached)
    verdict = word(
        difference.mean,
        (difference.low, difference.high),
        difference.p,
        p_equal,
        margins,
        higher_is_better=higher_is_better,
    )
    return Judgement(difference, p_equal, verdict, "", reached)


def withheld(
    baseline: Sequence[float],
    method: Sequence[float],
    controls: Mapping[str, Sequence[float]],
    *,
    higher_is_better: bool = True,
    blind: Collection[str] = (),
) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Reason for no verdict, "" where there can be one, and for each control the arms that are not shown to be above it.

    Claims and `compare` share this rule: neither arm is above a control, a control's mean is above the baseline's, or the baseline is not
    shown to be above a blind control.
    """
    sides = {"baseline": baseline, "method": method}
    reached = {
        name: tuple(side for side, arm in sides.items() if reaches(values, arm, higher_is_better=higher_is_better))
        for name, values in controls.items()
    }
    sign = 1.0 if higher_is_better else -1.0
    best_first = sorted(controls, key=lambda name: -sign * float(np.mean(controls[name])))
    for name in best_first:
        if len(reached[name]) == len(sides):
            return f"neither arm is above the control '{name}'", reached
    for name in best_first:
        if sign * (float(np.mean(controls[name])) - float(np.mean(baseline))) > 0:
            return f"the baseline is below the control '{name}'", reached
    for name in best_first:
        if name in blind and "baseline" in reached[name]:
            return f"the baseline is not above chance ('{name}')", reached
    return "", reached


def word(
    mean: float,
    interval: tuple[float, float],
    p: float,
    p_equal: float,
    margins: Margins,
    *,
    higher_is_better: bool = True,
) -> Word:
    """The rule of this module, on p values that may have been adjusted for several comparisons."""
    if p_equal < LEVEL:
        return "equal within the margin"
    if p < LEVEL and max(map(abs, interval)) >= margins.matters:
        return "shown" if (mean > 0) == higher_is_better else "reversed"
    return "open"


def reaches(control: Sequence[float], arm: Sequence[float], *, higher_is_better: bool = True) -> bool:
    """True if an arm is not shown to be better than a control: two-sided t over seed-paired differences at .05."""
    above = paired_difference(control, arm)
    return not (above.p < LEVEL and (above.mean > 0) == higher_is_better)


def paired_difference(baseline: Sequence[float], method: Sequence[float]) -> Difference:
    """The t interval over seed-paired differences. Needs the two lists in the same order of seeds, at least two seeds."""
    if len(baseline) != len(method):
        raise ConfigError(f"{len(baseline)} baseline values but {len(method)} method values: pairs need the same seeds")
    if len(baseline) < 2:
        raise ConfigError("a difference over seeds needs at least two seeds")
    d = np.asarray(method, float) - np.asarray(baseline, float)
    if not np.isfinite(d).all():
        raise ConfigError("a score is not a finite number, so the difference has no meaning")
    n, mean, spread = len(d), float(d.mean()), float(d.std(ddof=1))
    if spread == 0.0:
        return Difference(mean, mean, mean, 1.0 if mean == 0.0 else 0.0, 0.0, n)
    error = spread / math.sqrt(n)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, mean - half, mean + half, p, spread, n)


def equivalence_p(difference: Difference, margin: float) -> float:
    """The larger p of two one-sided t tests (TOST): small when the difference lies within the margin on both sides."""
    room = margin - abs(difference.mean)
    if difference.spread == 0.0:
        return 0.0 if room > 0 else 1.0
    return float(stats.t.sf(room / (difference.spread / math.sqrt(difference.seeds)), difference.seeds - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values for several comparisons (Holm, 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    >>> holm([2e-14, 0.5])
    [4e-14, 0.5]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = float(f"{running:.12g}")  # a p of 1e-14 is no 0
    return adjusted


def seeds_needed(spread: float, difference: float, *, power: float = 0.8) -> int:
    """Number of seeds that a paired t test at .05 needs to detect `difference` with the given power.

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
