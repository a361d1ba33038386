"""The budget of an arm, measured by the runner and never typed in; arms more than a tenth apart are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from diptych.claims.cell import CellResult
from diptych.core.errors import ConfigError

Quantity = Literal["steps", "samples", "labelled", "trusted", "trained_parameters", "frozen_parameters", "cpu_seconds"]
QUANTITIES: tuple[Quantity, ...] = (
    "steps",
    "samples",
    "labelled",
    "trusted",
    "trained_parameters",
    "frozen_parameters",
    "cpu_seconds",
)
TOLERANCE = 0.1
Spent = dict[str, float]


def mean_spent(cells: Sequence[CellResult]) -> Spent:
    """Means over the cells of an arm; a quantity that no cell could measure is not a number.

    steps and samples of all trainings and stages, labelled and trusted rows that were given, parameters of the largest module,
    processor seconds from the first line to the last score.
    """
    means: Spent = {}
    for name in QUANTITIES:
        values = [cell.cost[name] for cell in cells if math.isfinite(cell.cost.get(name, math.nan))]
        means[name] = sum(values) / len(values) if values else math.nan
    return means


def check_equal(key: str, arms: Mapping[str, Spent], equal: Sequence[Quantity]) -> None:
    """Refuse two arms of which one had more than a tenth more of something that is held equal."""
    (one, first), (two, second) = arms.items()
    for name in equal:
        a, b = first[name], second[name]
        if math.isfinite(a) and math.isfinite(b) and abs(a - b) > TOLERANCE * max(a, b):
            raise ConfigError(
                f"claim '{key}': '{one}' had {a:,.0f} {name.replace('_', ' ')} and '{two}' {b:,.0f}, more than a tenth apart "
                "(expected equal budgets, or an `equal_budget` that names what is held equal)"
            )
