"""What a verdict would cost: by arithmetic from a small share of the steps, without running the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from diptych.claims import cost, engine
from diptych.claims.cell import Cell
from diptych.claims.claim import Arm, Claim
from diptych.claims.cost import Price
from diptych.claims.verdict import Margins
from diptych.recipes._shared.cached_models import cached_model

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
        kind="paper's claim",
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


@dataclass(frozen=True)
class OnShared:
    """Needs a model that is made once for all, and one that this needs, each of which takes its time."""

    def __call__(self, cell: Cell) -> dict[str, float]:
        def inner() -> Callable[[Path], object]:
            spend(0.2)
            return lambda folder: (folder / "a").write_text("")

        def outer() -> Callable[[Path], object]:
            cached_model("inner", ["a"], inner, seed=0)
            spend(0.3)
            return lambda folder: (folder / "b").write_text("")

        cached_model("outer", ["b"], outer, seed=0)
        return {"recall": 0.5 + cell.seed / 1e9}


def spend(seconds: float) -> None:
    begin = time.process_time()
    while time.process_time() < begin + seconds:
        pass


def test_shared_training_is_a_cost_once_and_no_cells_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    one = replace(claim(), baseline=Arm("plain", OnShared()), method=Arm("better", OnShared()), equal_budget=("steps",))
    entry = engine.run(one, cells=tmp_path / "cells", commit="abc")
    assert entry.shared_cpu_seconds == pytest.approx(0.5, abs=0.15)
    assert entry.cpu_seconds < 0.2, "ten cells that do nothing themselves"
    kept = engine.run(one, cells=tmp_path / "other", commit="abc")
    assert kept.shared_cpu_seconds == entry.shared_cpu_seconds, "also where the models were there already"
    price = cost.price_arm(one.method, tmp_path / "tried")
    assert cost.seconds(one, dict.fromkeys(("plain", "better", "untrained"), price)) == pytest.approx(
        entry.shared_cpu_seconds, abs=0.1
    )
    for file in (tmp_path / "cache").rglob("*.cost.json"):
        file.unlink()
    assert engine.run(one, cells=tmp_path / "third", commit="abc").shared_cpu_seconds is None, "nobody knows"


def test_an_arm_of_several_claims_is_tried_once_on_a_small_share(tmp_path: Path) -> None:
    told: list[str] = []
    CALLS.clear()
    found = cost.estimate_costs([claim(), claim("again")], tmp_path, lambda claim, seconds: told.append(claim.key))
    assert list(found) == told == ["clip", "clip/again"]
    assert {name: [cost.SHARE] for name in ("plain", "better", "untrained")} == CALLS
