"""Raw-input controls: added by the runner to what a claim's own cells measure, and a method that only matches pixels has no verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.claims import ledger, registry
from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import clean_rows, retrieved
from diptych.claims.claim import Arm, Claim
from diptych.claims.controls.raw_input import PREFIX, UNASKED, _Instead, raw_values, run_raw_controls
from diptych.claims.engine import folder_of, judge_again, run
from diptych.claims.training import opened, trained, without_training
from diptych.claims.verdict import Margins
from diptych.core.errors import RunError
from diptych.models.closed_form.model import METHODS, raw_input_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.small_pairs import SmallPairs

ROWS, TESTED = 300, 60


@dataclass(frozen=True)
class PixelMatcher:
    """A "method" that only matches pixels, and pretends that it was trained: the nearest training picture, of some or of all rows."""

    share: float

    def __call__(self, cell: Cell) -> Scores:
        rows = SmallPairs(ROWS).pool("train", cell.seed)
        if cell.instead is None:
            cell.spending.count(steps=100)
            some = rows.select(np.arange(round(self.share * len(rows))))
            return retrieved(raw_input_model(some, "nearest picture"), clean_rows(cell, TESTED))
        return retrieved(opened(CLIP.tiny(), rows, cell), clean_rows(cell, TESTED))


@dataclass(frozen=True)
class Constant:
    """A control of a declaration that forgets every other one."""

    def __call__(self, cell: Cell) -> Scores:
        return {"t2i_r@1": 1 / TESTED}


def claim(**changes: Any) -> Claim:
    given: dict[str, Any] = {
        "slug": "clip",
        "kind": "mechanism check",
        "sentence": "more pictures are more",
        "source": "nobody",
        "refuted": "less",
        "baseline": Arm("few", PixelMatcher(0.02), (1e-4, 1e-3, 1e-2)),
        "method": Arm("matches pixels", PixelMatcher(1.0), (1e-4, 1e-3, 1e-2)),
        "controls": (Arm("constant", Constant()),),
        "metric": "t2i_r@1",
        "margins": Margins(0.02, 0.02),
        "equal_budget": ("steps",),
        "tuning_seeds": (0,),
        "seeds": 4,
        "data": "none",
    }
    return Claim(**{**given, **changes})


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> ledger.Entry:
    return run(claim(), cells=tmp_path_factory.mktemp("cells"), commit="abc")


def test_a_method_that_only_matches_pixels_gets_no_verdict(planted: ledger.Entry) -> None:
    assert planted.difference > 0.05
    assert planted.p < 0.05, "by the declared control alone it would be shown"
    assert planted.verdict == "no verdict"
    assert PREFIX in planted.why
    assert {side.name for side in planted.raw} == {f"{PREFIX}{method}" for method in METHODS}
    matched = next(side for side in planted.raw if side.name.endswith("nearest picture"))
    assert matched.scores["t2i_r@1"] == planted.method.scores["t2i_r@1"], "it is the same look-up"
    assert not planted.raw_missing


def test_no_declaration_leaves_them_out_and_the_hash_is_as_without(planted: ledger.Entry) -> None:
    assert [side.name for side in planted.controls] == ["constant"]
    assert ledger.edits(claim(), planted) == []
    assert planted.hash == claim().hash()
    assert ledger.recompute_verdict(planted) == planted.verdict


def test_kept_scores_are_judged_again_and_the_line_counts_wherever_it_is(planted: ledger.Entry, tmp_path: Path) -> None:
    before = replace(planted, raw=(), verdict="shown", why="")
    again = judge_again(claim(), before, cells=tmp_path / "cells")
    assert (again.verdict, again.was) == ("no verdict", "shown")
    assert again.rejudged
    assert again.method == before.method
    path = ledger.path_of(tmp_path, "clip")
    for line in (again, before):  # a merge may put them so
        ledger.append(path, line)
    assert ledger.latest(tmp_path, "clip") == again
    newer = replace(before, commit="def")
    ledger.append(path, newer)
    assert ledger.latest(tmp_path, "clip") == newer, "a verdict of its own replaces what was judged again"


def test_a_cell_that_asks_no_trained_model_says_so_and_one_that_trains_in_stages_too(tmp_path: Path) -> None:
    alone = claim(baseline=Arm("one", Constant()), method=Arm("two", Constant()))
    done = run_raw_controls(alone, (1000,), lambda arm: folder_of(tmp_path, arm), lambda cell, result: None)
    assert not done.cells
    assert set(done.missing.values()) == {UNASKED}
    staged = Cell("staged", 0, tmp_path / "staged", instead=_Instead("ridge"))
    with pytest.raises(RunError, match="trains in stages"):
        trained(CLIP.tiny(), SmallPairs(8).pool("train", 0), staged)
    with pytest.raises(RunError, match="trains in stages"), without_training():
        trained(CLIP.tiny(), SmallPairs(8).pool("train", 0), replace(staged, instead=None))


def in_place(key: str, tmp_path: Path) -> Scores:
    """Scores of a claim's method cell at its smallest, by a look-up."""
    method = registry.find(key).method
    instead = _Instead("nearest picture")
    cell = Cell(method.name, 0, tmp_path / "cell", size="smoke", instead=instead)
    with without_training():
        scores = method.run(cell)
    assert instead.asked
    return scores


@pytest.mark.parametrize("key", ["alip", "fiber"])
def test_they_stand_in_cells_of_retrieval_and_of_answers(key: str, tmp_path: Path) -> None:
    assert 0.0 <= in_place(key, tmp_path)[registry.find(key).metric] <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["align", "dreamlip", "keep", "laclip", "locked", "lexlip", "metaclip", "mrl", "siglip", "snare", "xclip"]
)
def test_they_stand_in_further_cells(key: str, tmp_path: Path) -> None:
    assert registry.find(key).metric in in_place(key, tmp_path)


def test_lines_are_plain_json(planted: ledger.Entry, tmp_path: Path) -> None:
    ledger.append(tmp_path / "clip.jsonl", planted)
    plain = json.loads((tmp_path / "clip.jsonl").read_text())
    assert plain["raw"][0]["name"] == f"{PREFIX}ridge"
    assert ledger.latest(tmp_path, "clip") == planted


def test_a_task_that_a_closed_form_cannot_do_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    rows, parts = SmallPairs(60).pool("train", 0), {"test": SmallPairs(20).pool("test", 0)}

    def make(words: str) -> Any:
        if words == "impossible":
            raise RunError("wants what a closed form has not")
        return Retrieval()

    lines: list[str] = []
    values = raw_values(rows, parts, ("retrieval", "impossible"), make, tmp_path, say=lines.append)
    assert {name: set(by_task) for name, by_task in values.items()} == {f"{PREFIX}{method}": {"retrieval"} for method in METHODS}
    assert len(lines) == len(METHODS)
    assert all("impossible': RunError: wants what a closed form has not" in line for line in lines)
