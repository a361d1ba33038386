"""What a verdict would cost: by arithmetic from a small share of the steps, without running the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from diptych.claims import cost
from diptych.claims.cell import Cell
from diptych.claims.claim import Arm, Claim
from diptych.claims.cost import Price
from diptych.claims.verdict import Margins

CALLS: dict[str, list[float]] = {}


@dataclass(frozen=True)
class Counted:
    """Notes how often it was called, and with what share of the steps."""

    name: str = "untrained"

    def __call__(self, cell: Cell) -> dict[str, float]:
        CALLS.setdefault(self.name, []).append(cell.share)
        return {"recall": 0.5}


def claim(name: str = "") -> Claim:
    return Claim(
        slug="clip",
        name=name,
        kind="mechanism check",
        sentence="more is more",
        source="nobody",
        refuted="less",
        baseline=Arm("plain", Counted("plain"), (0.1, 0.2, 0.3)),
        method=Arm("better", Counted("better"), (0.1, 0.2, 0.3, 0.4)),
        controls=(Arm("untrained", Counted()),),
        metric="recall",
        margins=Margins(0.02, 0.02),
        data="none",
        tuning_seeds=(0, 1),
    )


def test_a_sweep_is_at_half_the_steps_and_controls_do_not_sweep() -> None:
    one = claim()
    prices = {"plain": Price(2.0, 20.0), "better": Price(1.0, 40.0), "untrained": Price(3.0, 0.0)}
    sweep = 3 * 2 * (2 + 10) + 4 * 2 * (1 + 20)
    assert cost.seconds(one, prices) == pytest.approx(sweep + 5 * (22 + 41 + 3))


def test_steps_are_scaled_by_the_share_and_by_how_much_of_the_clock_the_processor_had() -> None:
    price = cost.price_of({"cpu_seconds": 5.0, "wall_seconds": 10.0, "train_seconds": 4.0})
    assert (price.fixed, price.steps) == pytest.approx((3.0, 2.0 / cost.SHARE))
    assert cost.price_of({"cpu_seconds": 5.0, "wall_seconds": 10.0, "train_seconds": math.nan}) == Price(5.0, 0.0)


def test_an_arm_of_several_claims_is_tried_once_on_a_small_share(tmp_path: Path) -> None:
    told: list[str] = []
    CALLS.clear()
    found = cost.estimate_costs([claim(), claim("again")], tmp_path, lambda claim, seconds: told.append(claim.key))
    assert list(found) == told == ["clip", "clip/again"]
    assert {name: [cost.SHARE] for name in ("plain", "better", "untrained")} == CALLS
