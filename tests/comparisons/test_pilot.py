"""Short trainings before a comparison: steps to leave chance, seeds for the margin, and when there is no pilot."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import diptych as dp
from diptych.claims.verdict import Margins, seeds_needed
from diptych.comparisons import pilot as module
from diptych.comparisons.pilot import PilotResult, pilot_lines, smallest_difference
from diptych.core.errors import ConfigError

WORLD = "world:scenes?n=24&val=6&test=12&size=32"
SMALL: dict[str, Any] = {"batch_size": 8, "warmup": 0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300}
LEARNS = PilotResult((10, 20, 40, 40), (0.1, 0.2, 0.4, 0.43), (0.05, 0.15, 0.35, 0.38), (0.15, 0.25, 0.45, 0.48), chance=0.1)


def test_the_step_that_leaves_chance() -> None:
    assert LEARNS.above_chance == 20
    assert replace(LEARNS, chance=0.5).above_chance == 0
    ranks = PilotResult((10, 20, 40, 40), (50, 40, 20, 21), (45, 35, 15, 16), (55, 45, 25, 26), 48, higher_is_better=False)
    assert ranks.above_chance == 20


def test_seeds_and_differences_answer_each_other() -> None:
    for spread, seeds in ((0.01, 3), (0.02, 8), (0.5, 20)):
        least = smallest_difference(spread, seeds)
        assert seeds_needed(spread, 1.01 * least) <= seeds < seeds_needed(spread, 0.98 * least)
    assert LEARNS.spread == pytest.approx(0.03)
    assert replace(LEARNS, values=(0.1, 0.2, 0.4, 0.4)).spread == pytest.approx(0.1 / 3.92)  # alike by chance


def test_lines_warn_of_what_the_budget_cannot_show() -> None:
    margins = Margins(0.01, 0.01)
    enough = pilot_lines("clip", LEARNS, 400, 100, margins, "retrieval")
    assert enough[1:2] == ["pilot: above chance from 20 steps on; the budget has 400"]
    assert not any(line.startswith("!") for line in enough)
    short = pilot_lines("clip", LEARNS, 15, 3, margins, "retrieval")
    assert "nothing would be learned" in short[1]
    assert short[2].startswith("! pilot: two seeds differ by 0.030")
    never = pilot_lines("clip", replace(LEARNS, chance=0.5), 400, 3, margins, "retrieval")
    assert "40 steps are not above chance" in never[1]
    unknown = pilot_lines("clip", replace(LEARNS, chance=math.nan), 400, 3, margins, "retrieval")
    assert "chance" not in " ".join(unknown)


@pytest.mark.slow
def test_a_long_comparison_begins_with_a_pilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    data = dp.read(WORLD)  # an object: its cells are trained in this process
    monkeypatch.setattr(module, "estimate", lambda *_: {"seconds_per_step": 1.0})
    words: dict[str, Any] = {"seeds": 1, "budget": "steps:16", "out": tmp_path, "say": said.append}
    dp.compare(["clip", "clip:lr=1e-4"], data, pilot=30.0, **words, **SMALL)
    assert not any(line.startswith(("pilot", "! pilot")) for line in said)  # 32 steps of a second are not ten pilots
    assert any(line.startswith("note: with 24 training rows") for line in said)
    said.clear()
    words["out"] = tmp_path / "long"
    monkeypatch.setattr(module, "WORTH", 1)
    dp.compare(["clip", "clip:lr=1e-4"], data, pilot=30.0, **words, **SMALL)
    first = next(number for number, line in enumerate(said) if line.startswith("[1/2]"))
    assert said[first - 3].startswith("pilot: retrieval of clip:")
    pilot = json.loads((tmp_path / "long/pilot/pilot.json").read_text())
    assert pilot["steps"] == [2, 5, 10, 10]
    said.clear()
    dp.compare(["clip", "clip:lr=1e-4"], data, pilot=30.0, **words, **SMALL)
    assert not any("pilot" in line for line in said)  # it was begun already
    with pytest.raises(ConfigError, match="pilot is -1"):
        dp.compare(["clip", "siglip"], data, pilot=-1)
