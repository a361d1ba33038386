"""Runs on data of so many rows that their order is computed: resumed exactly, and in the order that they began with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy import Toy, toy_pool

from diptych.core.run_folder import RunFolder
from diptych.data.load import computed_order
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

OPTIONS = TrainOptions(progress=False, save_every=2, log_every=1, keep=9)


def weights(run: RunFolder) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


def stopped_at(folder: Path, step: int) -> None:
    """As a kill leaves a run: running, with the checkpoints up to a step."""
    run = RunFolder.open(folder)
    for path in run.checkpoints.iterdir():
        if int(path.name.removeprefix("step-")) > step:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    run.write_state(status="running", step=step)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed_order, "COMPUTED_FROM", 10)


def test_a_run_in_a_computed_order_is_resumed_exactly(large: None, tmp_path: Path) -> None:
    whole = fit(Toy(steps=6), toy_pool(), tmp_path / "whole", OPTIONS)
    fit(Toy(steps=6), toy_pool(), tmp_path / "run", OPTIONS)
    stopped_at(tmp_path / "run", 2)
    assert weights(resume(tmp_path / "run", toy_pool(), kind=Toy)) == weights(whole)


def test_a_run_that_began_before_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = fit(Toy(steps=6), toy_pool(), tmp_path / "small", OPTIONS)
    fit(Toy(steps=6), toy_pool(), tmp_path / "run", OPTIONS)
    stopped_at(tmp_path / "run", 2)
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state.pop("order") == 2
    (tmp_path / "run/run.json").write_text(json.dumps(state))
    monkeypatch.setattr(computed_order, "COMPUTED_FROM", 10)
    assert weights(resume(tmp_path / "run", toy_pool(), kind=Toy)) == weights(small)
    assert weights(fit(Toy(steps=6), toy_pool(), tmp_path / "new", OPTIONS)) != weights(small), "a new one has the computed order"
