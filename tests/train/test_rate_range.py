"""Range test: the rates that it names are those of the steepest fall and of the smallest loss; it ends where the loss explodes."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from toy import Toy, toy_pool

from diptych.cli import main
from diptych.core.errors import ConfigError, RunError
from diptych.train.rate_range import outcome, rate_range, smoothed


def test_smoothing_is_the_weighted_mean_of_all_losses_so_far() -> None:
    losses = [3.0, 1.0, 2.0]
    weights = [0.9**2, 0.9, 1.0]
    expected = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert smoothed(losses)[-1] == pytest.approx(expected)
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)


def test_rates_of_a_made_up_curve() -> None:
    """Flat to step 30, falling to step 60 and fastest at 45, then exploding."""
    losses = [
        4.0 - 3.0 / (1 + math.exp(-(step - 45) / 4)) + (math.exp((step - 60) / 3) if step > 60 else 0.0) for step in range(90)
    ]
    rates = [1e-6 * 10 ** (step / 15) for step in range(90)]
    done = outcome(rates, losses)
    assert 45 <= round(15 * math.log10(done.steepest / 1e-6)) <= 55  # the running mean lags by some steps
    assert 60 <= round(15 * math.log10(done.lowest / 1e-6)) <= 72
    assert done.diverged
    rising = outcome(rates[:20], [1.0 + 0.01 * step for step in range(20)])
    assert math.isnan(rising.steepest)
    assert not rising.diverged
    with pytest.raises(RunError, match="begin lower"):
        outcome(rates, [1.0, math.nan])


def test_a_recipe_is_trained_with_rates_that_grow_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = rate_range(Toy(), toy_pool(), low=1e-5, high=1e3, steps=40)
    rates = [rate for rate, _, _ in done.points]
    factors = [b / a for a, b in pairwise(rates)]
    assert factors == pytest.approx([(1e8) ** (1 / 39)] * len(factors))
    assert done.diverged or len(done.points) == 40
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="expected 0 < low < high"):
        rate_range(Toy(), toy_pool(), low=1.0, high=0.1)


def test_the_command_writes_a_page_and_its_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["width=16", "image_size=32", "text_length=12", "pieces=300", "batch_size=8"]
    words = ["lr-range", "clip", "--data", "world:scenes?n=24&size=32", "--steps", "12", "--out", str(tmp_path / "range.html")]
    assert main([*words, "--set", *small, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["points"][0][0] == pytest.approx(1e-6)
    rows = (tmp_path / "range.csv").read_text().splitlines()
    assert rows[0] == "lr,loss,smoothed"
    assert len(rows) == 1 + len(plain["points"])
    assert "smallest loss" in (tmp_path / "range.html").read_text()
