"""What takes long says so first, and the demo keeps to its time wherever it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych import api
from diptych.cli import main
from diptych.cli.demo_command import Cut, Demo, _within, cut_to

WORLD = "world:scenes?n=32"


def test_seeds_go_before_steps() -> None:
    assert cut_to(1000.0, 60.0, 3) == Cut(3, 1.0)
    assert cut_to(125.0, 60.0, 3) == Cut(2, 1.0)
    assert cut_to(15.0, 60.0, 3) == Cut(1, 0.25)
    assert cut_to(10.0, 0.0, 3) == Cut(3, 1.0)


@pytest.mark.parametrize(("a_step", "seeds", "steps"), [(0.01, 3, 0), (0.4, 2, 0), (8.0, 1, 35)])
def test_a_slow_machine_does_less_and_says_so(
    a_step: float, seeds: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 steps of two recipes: what 216 seconds of training hold at that rate."""
    monkeypatch.setattr(api, "estimate", lambda *_, **__: {"steps": 130, "seconds": 130 * a_step, "seconds_per_step": a_step})
    made, words = _within(Demo(out=tmp_path, seconds=360), None, 0.0)
    assert made.seeds == seeds
    assert bool(words) == (seeds < 3)
    if steps:
        assert 0 < made.steps < 130
        assert made.steps * a_step * 2 * made.seeds <= 360 * 0.6
        assert "of the steps" in words
    again: Any = Demo(out=tmp_path, seconds=0)
    assert _within(again, None, 0.0) == (again, "")


def test_a_comparison_says_its_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "clip", "siglip", "--data", WORLD, "--budget", "steps:50", "--seeds", "2", "--out", str(tmp_path / "c")]
    assert main([*words, "--set", "batch_size=8", "width=16", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["minutes"]) == {"clip", "siglip"}
    assert found["total"] == pytest.approx(sum(found["minutes"].values()))
    assert not (tmp_path / "c").exists()
