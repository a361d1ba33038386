"""What takes long says so first, and the demo keeps to its time wherever it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diptych import api
from diptych.cli import main
from diptych.cli.commands import demo as demo_command
from diptych.cli.commands.demo import DemoArgs, TimeBudget, _cut_note, _with_steps_that_fit

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


@pytest.mark.parametrize(("a_step", "share"), [(0.01, 1.0), (0.7, 1.0), (8.0, 0.6 * 340 / (2 * 130 * 8.0))])
def test_steps_are_cut_where_a_single_seed_does_not_fit(
    a_step: float, share: float, now: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "estimate", lambda *_, **__: {"steps": 130, "seconds": 130 * a_step, "seconds_per_step": a_step})
    clock, given = TimeBudget(360, now[0]), DemoArgs(out=tmp_path, seconds=360)
    now[0] += 20.0
    made, found = _with_steps_that_fit(given, None, clock)
    assert found == pytest.approx(share)
    assert made == (given if share == 1.0 else replace(given, steps=int(130 * share)))
    assert _with_steps_that_fit(given, None, TimeBudget(0, 0.0)) == (given, 1.0)


def test_what_was_cut_is_said() -> None:
    args = DemoArgs(seconds=360, seeds=3)
    assert _cut_note(args, 3, 1.0) == ""
    assert "Cut to 360 seconds on this machine: 2 of 3 seeds;" in _cut_note(args, 2, 1.0)
    assert "1 of 3 seeds and 10% of the steps" in _cut_note(args, 1, 0.0981)


def test_a_comparison_says_its_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "clip", "siglip", "--data", WORLD, "--budget", "steps:50", "--seeds", "2", "--out", str(tmp_path / "c")]
    assert main([*words, "--set", "batch_size=8", "width=16", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["minutes"]) == {"clip", "siglip"}
    assert found["total"] == pytest.approx(sum(found["minutes"].values()))
    assert not (tmp_path / "c").exists()
