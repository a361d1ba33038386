"""What takes long says so first, and the demo keeps to its time wherever it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych import api
from diptych.cli import main
from diptych.cli.commands import demo as demo_command
from diptych.cli.commands.demo import DemoArgs, TimeBudget, _cut_note, _minutes_of_a_seed

WORLD = "world:scenes?n=32"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the demo reads; a test moves it."""
    time = [100.0]
    monkeypatch.setattr(demo_command.time, "perf_counter", lambda: time[0])
    return time


@pytest.mark.parametrize(("round_seconds", "rounds"), [(60.0, 5), (100.0, 3), (200.0, 1), (500.0, 1)])
def test_a_round_begins_where_one_like_the_last_still_fits(now: list[float], round_seconds: float, rounds: int) -> None:
    clock, done = TimeBudget(360, now[0]), 0
    now[0] += 20.0  # reading and curation
    while done < 5 and clock.has_another_round():
        now[0] += round_seconds
        clock.round_is_over()
        done += 1
    assert done == rounds
    assert now[0] - 100.0 <= 360 or rounds == 1
    assert TimeBudget(0, 0.0).has_another_round()


def test_a_seed_is_whole_and_its_minutes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "estimate", lambda *_, **__: {"steps": 130, "seconds": 90.0})
    assert _minutes_of_a_seed(DemoArgs(recipes=("clip", "locked")), None) == pytest.approx(3.0)


def test_seeds_that_were_left_out_are_said() -> None:
    args = DemoArgs(seconds=360, seeds=3)
    assert _cut_note(args, 3) == ""
    assert "2 of 3 seeds fit into 360 seconds on this machine" in _cut_note(args, 2)


def test_a_comparison_says_its_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "clip", "siglip", "--data", WORLD, "--budget", "steps:50", "--seeds", "2", "--out", str(tmp_path / "c")]
    assert main([*words, "--set", "batch_size=8", "width=16", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["minutes"]) == {"clip", "siglip"}
    assert found["total"] == pytest.approx(sum(found["minutes"].values()))
    assert not (tmp_path / "c").exists()


def test_one_seed_has_no_interval() -> None:
    assert demo_command._over_seeds([0.25]) == "0.250 of one seed"
    assert demo_command._over_seeds([0.1, 0.2]).startswith("0.150 [-0.485, 0.785] over 2 seeds")
