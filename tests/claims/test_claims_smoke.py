"""Every claim runs at its smallest, in this process; none of that gives a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.claims import engine, registry


@pytest.mark.parametrize("key", [claim.key for claim in registry.every()])
def test_both_arms_run(key: str, tmp_path: Path) -> None:
    claim = registry.find(key)
    scores = engine.run_cell(claim, claim.method, 0, tmp_path / "method", smoke=True).scores
    assert {claim.metric, *claim.reported} <= set(scores)
    assert 0.0 <= scores[claim.metric] <= 1.0
    engine.run_cell(claim, claim.baseline, 0, tmp_path / "baseline", smoke=True)
    assert not list(tmp_path.rglob("*-0.json"))


@pytest.mark.parametrize("key", [claim.key for claim in registry.every()])
def test_metric_and_direction_stand_in_the_file(key: str) -> None:
    claim = registry.find(key)
    assert claim.key == key
    assert claim.sentence
    assert claim.refuted
    assert claim.budget
    assert len(claim.source_hash()) == 12
    assert claim.baseline.name != claim.method.name
