"""Evaluations inside a run: a curve, the best moment kept, an early end; and a killed run ends as one that was not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy import Toy, toy_pool

from diptych import api
from diptych.core.errors import ConfigError
from diptych.core.run_folder import RunFolder
from diptych.train.best import BestEvaluation, best_so_far, evaluation_interval
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

OPTIONS: dict[str, Any] = {"save_every": 2, "log_every": 1, "progress": False, "precision": "fp32", "eval_every": 2}


def scores(by_step: Mapping[int, float]) -> Any:
    """An evaluator whose score at the n-th evaluation is given: it rises and then falls."""
    values = list(by_step.values())

    class Judge:
        asked = 0

        def __call__(self, model: Any) -> Mapping[str, float]:
            value = values[min(self.asked, len(values) - 1)]
            self.asked += 1
            return {"r@1": value, "score": value}

    return Judge()


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


RISE: Mapping[int, float] = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.2, 10: 0.25, 12: 0.2}


def test_the_best_moment_is_what_stays(tmp_path: Path) -> None:
    run = fit(Toy(steps=12), toy_pool(), tmp_path / "run", TrainOptions(**OPTIONS, keep_best=True), [("judge", scores(RISE))])
    assert run.state["step"] == 12
    assert best_so_far(run) == BestEvaluation(4, 0.3, since=4)
    short = fit(Toy(steps=12), toy_pool(), tmp_path / "plain", TrainOptions(**OPTIONS))
    assert weights(run) != weights(short)
    assert not run.best.exists()
    assert any("model/ is that of step 4" in line.get("text", "") for line in run.metrics())
    rising = {step: step / 100 for step in range(2, 14, 2)}
    last = fit(Toy(steps=12), toy_pool(), tmp_path / "last", TrainOptions(**OPTIONS, keep_best=True), [("judge", scores(rising))])
    assert weights(last) == weights(short), "evaluating and keeping changed what was learned"


def test_a_run_that_gets_no_better_ends(tmp_path: Path) -> None:
    options = TrainOptions(**OPTIONS, early_stop=True, patience=2)
    run = fit(Toy(steps=40), toy_pool(), tmp_path / "run", options, [("judge", scores(RISE))])
    assert run.state["status"] == "finished"
    assert run.state["step"] == 8
    assert any("ended at step 8: nothing better than step 4 in 2 evaluations" in line.get("text", "") for line in run.metrics())
    assert resume(run.path, toy_pool(), kind=Toy).state["step"] == 8


def test_a_stop_in_between_changes_nothing(tmp_path: Path) -> None:
    """Stopped after the best moment and resumed, by evaluators that start afresh in another process."""
    options = TrainOptions(**OPTIONS, early_stop=True, patience=2)
    whole = fit(Toy(steps=40), toy_pool(), tmp_path / "whole", options, [("judge", scores(RISE))])
    fit(Toy(steps=40, witness=str(tmp_path / "w"), stop_at=5), toy_pool(), tmp_path / "cut", options, [("judge", scores(RISE))])
    assert RunFolder.open(tmp_path / "cut").state["status"] == "stopped"
    left = {step: value for step, value in RISE.items() if step > 4}
    cut = resume(tmp_path / "cut", toy_pool(), [("judge", scores(left))], kind=Toy)
    assert cut.state["step"] == whole.state["step"] == 8
    assert weights(cut) == weights(whole)


def test_off_by_default_and_on_by_one_word() -> None:
    assert evaluation_interval(TrainOptions(), 400) == 0
    assert evaluation_interval(TrainOptions(early_stop=True), 400) == 20
    assert evaluation_interval(TrainOptions(early_stop=True, eval_every=7), 400) == 7
    with pytest.raises(ConfigError, match="patience is 0"):
        TrainOptions(patience=0)


def test_a_recipe_stops_early_on_real_rows(tmp_path: Path) -> None:
    small: dict[str, Any] = {"batch_size": 8, "width": 16, "progress": False}
    run = api.train("clip", "world:scenes?n=32&val=16", tmp_path / "run", steps=4, early_stop=True, **small)
    lines = [line for line in run.metrics() if line["kind"] == "eval"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all("retrieval-val/score" in line for line in lines)
    with pytest.raises(ConfigError, match="has no split 'val'"):
        api.train("clip", api.read("world:scenes?n=32").split("train"), tmp_path / "none", steps=4, eval_every=1, **small)
    assert not (tmp_path / "none").exists()
