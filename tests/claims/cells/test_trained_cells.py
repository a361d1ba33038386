"""A claim whose arms really train, at full size of nothing: what is kept, measured and resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diptych.claims.cell import Cell, CellResult, run_cell
from diptych.claims.cells.learned_pairs.pairs import Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim
from diptych.claims.engine import folder_of, run
from diptych.claims.trace import TRACED_STEPS, trace
from diptych.claims.training import EVERY, FIRST_STEPS, trained
from diptych.claims.verdict import Margins
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.locked import Locked
from diptych.worlds.small_pairs import SmallPairs

CLIP_4 = sized_for(CLIP.tiny(), batch_size=8, steps=4, pieces=280)
ROWS = SeededPairs(SmallPairs(24))


def test_a_cell_measures_what_it_took_and_is_read_the_second_time(tmp_path: Path) -> None:
    arm = Paired(CLIP_4, ROWS)
    done = run_cell(Cell("clip", 7, tmp_path / "cell", rate=1e-3), arm)
    model = CLIP_4.prepare(SmallPairs(24).pool("train", 7)).model()
    assert done.cost["trained_parameters"] == sum(p.numel() for p in model.parameters())
    assert (done.cost["steps"], done.cost["samples"], done.cost["frozen_parameters"]) == (4, 32, 0)
    assert done.cost["cpu_seconds"] > 0
    assert done.scores["rows"] == 24
    assert run_cell(Cell("clip", 7, tmp_path / "cell"), replace(arm, prefixes=(4,))) == done, "read, not run"
    half = run_cell(Cell("clip", 7, tmp_path / "half", rate=1e-3, share=0.5), arm)
    assert half.steps == 2


def test_a_recipe_that_counts_in_epochs_keeps_them(tmp_path: Path) -> None:
    recipe = replace(CLIP_4, steps=0, epochs=3.0)
    assert Cell("x", 1, tmp_path).sized(recipe).epochs == 3.0
    half = Cell("x", 1, tmp_path, share=0.5).sized(recipe)
    assert (half.steps, half.epochs) == (0, 1.5)
    assert Cell("x", 1, tmp_path, share=0.5).sized(CLIP_4).steps == 2
    done = run_cell(Cell("x", 7, tmp_path / "cell", rate=1e-3), Paired(recipe, ROWS))
    assert done.cost["samples"] == 3 * 24


def test_an_auxiliary_training_is_on_the_account(tmp_path: Path) -> None:
    def twice(cell: Cell) -> dict[str, float]:
        rows = ROWS(cell)
        trained(CLIP_4, rows, cell.part("scorer"))
        trained(CLIP_4, rows, replace(cell, folder=cell.folder / "run"))
        cell.spending.count(trusted=len(rows))
        return {"recall": 0.0}

    done = run_cell(Cell("twice", 1, tmp_path / "cell", share=0.5), twice)
    assert (done.cost["steps"], done.cost["trusted"]) == (2 + 2, 24)
    assert done.cost["samples"] == 8 * 4


def test_a_killed_cell_goes_on_and_its_time_is_not_known(tmp_path: Path) -> None:
    calls = []

    def killed(cell: Cell) -> dict[str, float]:
        folder = trained(CLIP_4, ROWS(cell), replace(cell, folder=cell.folder / "run"))
        calls.append(folder.state["step"])
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"recall": 0.5}

    cell = Cell("killed", 1, tmp_path / "cell")
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, killed)
    assert CellResult.read(cell.folder) is None
    done = run_cell(Cell("killed", 1, tmp_path / "cell"), killed)
    assert done.resumed
    assert done.cost["cpu_seconds"] != done.cost["cpu_seconds"]
    assert done.steps == 4


def test_cells_are_kept_apart_by_configuration_and_not_by_the_name_of_a_claim(tmp_path: Path) -> None:
    arm = Arm("clip", Paired(CLIP_4, ROWS), (1e-4, 1e-3, 1e-2))
    same = Arm("clip", Paired(replace(CLIP_4), SeededPairs(SmallPairs(24))), (1e-4, 1e-3, 3e-3))
    assert folder_of(tmp_path, arm) == folder_of(tmp_path, same), "rates are the cell's, not the arm's"
    assert folder_of(tmp_path, arm) != folder_of(tmp_path, Arm("clip", Paired(replace(CLIP_4, width=32), ROWS)))
    assert folder_of(tmp_path, arm) != folder_of(tmp_path, Arm("clip", Paired(CLIP_4, SeededPairs(SmallPairs(25)))))


@pytest.mark.slow
def test_a_whole_claim_that_trains(tmp_path: Path) -> None:
    rates = (1e-4, 1e-3, 1e-2)
    claim = Claim(
        slug="clip",
        kind="mechanism check",
        sentence="a batch of 8 is as good as another batch of 8",
        source="nobody",
        refuted="a difference",
        baseline=Arm("one", Paired(CLIP_4, ROWS), rates),
        method=Arm("other", Paired(CLIP_4, ROWS), rates),
        controls=(Arm("untrained", Paired(CLIP_4, ROWS, learns=False)),),
        metric="test/i2t_r@1",
        margins=Margins(0.02, 0.02),
        equal_budget=("steps", "samples", "labelled", "trusted", "trained_parameters", "frozen_parameters"),
        data="none",
        seeds=3,
        tuning_seeds=(0,),
    )
    entry = run(claim, cells=tmp_path, commit="abc")
    assert entry.difference == 0.0
    assert entry.verdict == "no verdict", "four steps learn nothing that the untrained towers lack"
    assert entry.method.scores == entry.baseline.scores
    grid, tried = {"0.0001", "0.001", "0.01"}, set(entry.sweep["one"]["rates"])
    assert tried in (grid, grid | {"1e-05"}, grid | {"0.1"}), "one rate beyond an edge at which the best is"
    assert tried == set(entry.sweep["other"]["rates"])
    assert entry.method.budget["steps"] == 4
    traced = trace(claim)
    kept = [step for step in range(1, TRACED_STEPS + 1) if step <= FIRST_STEPS or step % EVERY == 0 or step == TRACED_STEPS]
    assert len(traced["method"]["losses"]) == len(kept) == 7
    assert traced["method"] == traced["baseline"]


def test_frozen_parameters_are_counted_apart() -> None:
    from diptych.claims.cell import _parameters

    recipe = Locked.tiny()
    learned, frozen = _parameters(recipe)
    assert learned > 0
    assert learned + frozen == sum(p.numel() for p in recipe.model().parameters())
