"""Cells of a comparison are about code: another loss or another library trains them anew, and white space does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diptych as dp
from diptych.core.sources import program

FILE = '''
from dataclasses import dataclass
from diptych.recipes.contrastive.clip import CLIP

@dataclass(frozen=True, kw_only=True)
class Weighted(CLIP):
    """A CLIP whose loss counts otherwise."""

    slug = "weighted_clip"

    def losses(self, features, batch):
        return {name: 1.0 * loss for name, loss in super().losses(features, batch).items()}
'''
WORLD = "world:scenes?n=24&test=12&size=32"
SMALL: dict[str, Any] = {"batch_size": 8, "warmup": 0.0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300}


def test_a_changed_loss_and_another_library_train_cells_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    file, told = tmp_path / "mine.py", list[str]()
    file.write_text(FILE)

    def means() -> tuple[float, list[str]]:
        told.clear()
        arms = [f"{file}:Weighted", f"{file}:Weighted:lr=1e-3"]
        options: dict[str, Any] = {"tasks": ["retrieval:draws=20"], "seeds": 1, "budget": "steps:4", **SMALL}
        done = dp.compare(arms, WORLD, out=tmp_path / "out", say=told.append, **options)
        cells = [line for line in told if line.startswith("[")]
        return done.measured.main_measures[0].values[arms[1]][0], [line.rpartition(": ")[2] for line in cells]

    first, cells = means()
    assert not [line for line in cells if line == "there already"]
    file.write_text("# my loss\n" + FILE.replace("1.0 * loss", "1.0   *   loss"))
    assert means() == (first, ["there already", "there already"])
    file.write_text(FILE.replace("1.0 * loss", "0.0 * loss"))
    _, cells = means()
    assert "there already" not in cells
    assert any(line.startswith("note: the code of") and "trained anew" in line for line in told)
    file.write_text(FILE)
    assert means() == (first, ["there already", "there already"])  # the cells of before were kept
    monkeypatch.setattr(program, "library_versions", lambda: ["torch==99.0"])
    assert "there already" not in means()[1]


@pytest.mark.slow
def test_cells_side_by_side_come_to_the_same_and_failures_stay_apart(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tasks": ["retrieval:draws=20"], "seeds": 2, "budget": "steps:2", **SMALL}
    arms = ["plain=clip", "fast=clip:lr=1e-2", "broken=clip:image_size=31"]
    one = dp.compare(arms, WORLD, out=tmp_path / "one", **options)
    two = dp.compare(arms, WORLD, out=tmp_path / "two", processes=2, **options)
    assert one.measured.main_measures[0].values == two.measured.main_measures[0].values
    assert [(failure.arm, failure.seed) for failure in two.measured.failures] == [("broken", 0), ("broken", 1)]
    assert [failure.reason for failure in one.measured.failures] == [failure.reason for failure in two.measured.failures]
