"""Cost estimate of a verdict before it is run: every arm for a small share of its steps, the rest by arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from diptych.claims.cell import Cell, run_cell
from diptych.claims.claim import Arm, Claim
from diptych.claims.engine import folder_of

SHARE = 0.04
"""Of the steps of an arm, that are tried: sixteen of 400."""
TRIED_ON = 0
"""The seed: one that is for tuning."""


@dataclass(frozen=True, slots=True)
class Price:
    """Processor seconds of one full cell: fixed (rows, towers, scores), and those of all its steps."""

    fixed: float
    steps: float

    shared: dict[str, float | None] = field(default_factory=dict)
    """Of models that all cells share, by name; paid once."""

    def at(self, share: float) -> float:
        return self.fixed + share * self.steps


def price_arm(arm: Arm, folder: Path) -> Price:
    """Runs an arm for `SHARE` of its steps. Rows that other arms read too may be at hand already, which makes it look cheaper."""
    done = run_cell(Cell(arm.name, TRIED_ON, folder, rate=min(arm.rates, default=None), share=SHARE), arm.run)
    return replace(price_of(done.cost), shared=done.shared)


def price_of(cost: dict[str, float]) -> Price:
    """From what a cell of `SHARE` of the steps took. Steps are timed by the clock, and scaled by how much of it the processor had."""
    cpu, wall, train = (cost[name] for name in ("cpu_seconds", "wall_seconds", "train_seconds"))
    stepping = min(cpu, train * cpu / wall) if wall > 0 and math.isfinite(train) else 0.0
    return Price(cpu - stepping, stepping / SHARE)


def seconds(claim: Claim, prices: dict[str, Price]) -> float:
    """Processor seconds of sweep, arms and controls, and once of the models that they share; prices by the names of the arms."""
    swept = sum(len(arm.rates) * len(claim.tuning_seeds) * prices[arm.name].at(claim.tuning_share) for arm in claim.arms)
    shared = {name: taken for price in prices.values() for name, taken in price.shared.items()}
    once = sum(taken for taken in shared.values() if taken is not None)
    return once + swept + claim.seeds * sum(prices[arm.name].at(1.0) for arm in claim.every_arm)


def estimate_costs(claims: Sequence[Claim], folder: Path, on_claim: Callable[[Claim, float], None]) -> dict[str, float]:
    """Claim -> processor seconds when it runs alone. An arm that stands in several claims is tried once."""
    prices: dict[Path, Price] = {}
    costs: dict[str, float] = {}
    for claim in claims:
        for arm in claim.every_arm:
            cell_folder = folder_of(folder, arm)
            if cell_folder not in prices:
                prices[cell_folder] = price_arm(arm, cell_folder)
        costs[claim.key] = seconds(claim, {arm.name: prices[folder_of(folder, arm)] for arm in claim.every_arm})
        on_claim(claim, costs[claim.key])
    return costs
