"""Verdicts come from seeds, cells are stored and resumed, tuning seeds and too few seeds are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diptych.claims import ledger
from diptych.claims.claim import Arm, Cell, Claim
from diptych.claims.engine import run, run_cell, smoke
from diptych.claims.verdict import paired_difference
from diptych.core.errors import ConfigError, DataError

FRESH = (101, 102, 103, 104, 105)


def noisy(shift: float, calls: list[int] | None = None):  # type: ignore[no-untyped-def]
    def arm(cell: Cell) -> dict[str, float]:
        if calls is not None:
            calls.append(cell.seed)
        return {"recall": shift + np.random.default_rng(cell.seed).normal(0, 0.01) + 0.001 * (cell.seed % 2) * shift}

    return arm


def claim(baseline: float, method: float, calls: list[int] | None = None) -> Claim:
    return Claim(
        slug="made_up",
        sentence="more is more",
        source="nobody",
        refuted="less",
        baseline=Arm("plain", noisy(baseline, calls)),
        method=Arm("better", noisy(method, calls)),
        metric="recall",
        budget="none",
        data="none",
        sources=("diptych.claims.claim",),
    )


def test_swapped_arms_mirror_and_equal_arms_are_not_shown(tmp_path: Path) -> None:
    better = run(claim(0.2, 0.4), FRESH, cells=tmp_path / "a")
    worse = run(claim(0.4, 0.2), FRESH, cells=tmp_path / "b")
    equal = run(claim(0.3, 0.3), FRESH, cells=tmp_path / "c")
    assert (better.verdict, worse.verdict, equal.verdict) == ("shown", "reversed", "equal within the margin")
    assert better.difference == pytest.approx(-worse.difference)
    assert equal.difference == 0.0


def test_a_stopped_claim_goes_on_with_the_missing_cells(tmp_path: Path) -> None:
    calls: list[int] = []
    run_cell(claim(0.2, 0.4, calls), claim(0.2, 0.4, calls).baseline, 101, tmp_path)
    assert calls == [101]
    first = run(claim(0.2, 0.4, calls), FRESH, cells=tmp_path)
    assert len(calls) == 10
    again = run(claim(0.2, 0.4, calls), FRESH, cells=tmp_path)
    assert len(calls) == 10
    assert again.difference == first.difference


def test_smoke_stores_nothing(tmp_path: Path) -> None:
    smoke(claim(0.1, 0.2), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_what_may_not_give_a_verdict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 3 different seeds, got 2"):
        run(claim(0.1, 0.2), (101, 102), cells=tmp_path)
    with pytest.raises(ConfigError, match=r"seeds \[3, 4\] are for tuning"):
        run(claim(0.1, 0.2), (3, 4, 101), cells=tmp_path)
    with pytest.raises(ConfigError, match="not a finite number"):
        paired_difference([0.1, float("nan"), 0.2], [0.1, 0.2, 0.3])


def test_ledger_round_trip_and_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    entry = run(claim(0.2, 0.4), FRESH, cells=tmp_path)
    ledger.append(path, entry)
    assert ledger.entries(path) == [entry]
    assert ledger.latest(path, "made_up") == entry
    assert ledger.latest(path, "other") is None
    path.write_text(path.read_text() + "{half")
    with pytest.raises(DataError, match="row 2"):
        ledger.entries(path)


def test_a_shared_arm_runs_once_for_all_claims_of_its_system(tmp_path: Path) -> None:
    calls: list[int] = []
    first = replace(claim(0.2, 0.4), method=Arm("better", noisy(0.4, calls), shared=True))
    second = replace(first, name="second", baseline=Arm("other", noisy(0.3)))
    one, two = (run(it, FRESH, cells=tmp_path) for it in (first, second))
    assert calls == list(FRESH)
    assert one.method == two.method
    assert two.difference == pytest.approx(np.mean(np.subtract(two.method["scores"]["recall"], two.baseline["scores"]["recall"])))
    run(replace(second, name="third", method=replace(second.method, shared=False)), FRESH, cells=tmp_path)
    assert calls == [*FRESH, *FRESH], "an arm that is not shared runs for each claim"
