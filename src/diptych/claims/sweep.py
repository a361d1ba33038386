"""Which learning rate an arm gets: swept on tuning seeds at a share of the budget, chosen by a rule that looks at nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diptych.core.errors import ConfigError

TUNING_SEEDS = frozenset(range(5))
"""Never used for a verdict."""
TUNING_SHARE = 0.5
"""Of an arm's steps, where a claim says nothing else."""


def rule(share: float = TUNING_SHARE) -> str:
    """By what a rate is chosen, in words; `share` is that of an arm's steps.

    >>> rule(1.0)
    'best mean over tuning seeds at all steps; of equal means the lower rate'
    """
    steps = {TUNING_SHARE: "half the steps", 1.0: "all steps"}.get(share, f"{share:g} of the steps")
    return f"best mean over tuning seeds at {steps}; of equal means the lower rate"


def around(rate: float) -> tuple[float, float, float]:
    """A third of a rate, the rate, and three times as much.

    >>> around(3e-4)
    (0.0001, 0.0003, 0.0009)
    """
    return (round(rate / 3, 10), rate, round(rate * 3, 10))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rate of an arm. `at_edge` says that it is the lowest or highest that was tried, so that a better one may lie beyond."""

    rate: float
    at_edge: bool


def choose(scores: Mapping[float, Sequence[float]], *, higher_is_better: bool = True) -> Chosen:
    """By `rule`, from rate -> one score a tuning seed.

    >>> choose({1e-3: [0.2, 0.4], 3e-4: [0.3, 0.3], 1e-4: [0.1, 0.2]})
    Chosen(rate=0.0003, at_edge=False)
    """
    if len({len(values) for values in scores.values()}) != 1 or not all(scores.values()):
        raise ConfigError("every rate needs a score under each tuning seed")
    sign = 1.0 if higher_is_better else -1.0
    means = {rate: round(sign * sum(values) / len(values), 12) for rate, values in sorted(scores.items())}
    rate = max(means, key=means.__getitem__)  # the first of equal ones
    return Chosen(rate, rate in (min(means), max(means)))
