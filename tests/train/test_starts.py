"""What a start that comes to nothing leaves behind, what may take a run's place, and how a finished run takes more steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from toy import Toy, toy_pool

from diptych import api
from diptych.core.errors import ConfigError, RunError
from diptych.core.run_folder import RunFolder
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

OPTIONS = TrainOptions(save_every=4, log_every=1, progress=False, precision="fp32")
WORLD = "world:scenes?n=16"
SMALL: dict[str, Any] = {"batch_size": 4, "steps": 1, "width": 16, "progress": False}


class Broken(Toy):
    def losses(self, features: Any, batch: Any) -> Any:
        raise ValueError("out of cheese")


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "empty folder"])
def test_a_start_that_fails_leaves_nothing_behind(there: bool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if there:
        out.mkdir()
    with pytest.raises(ValueError, match="out of cheese"):
        fit(Broken(steps=3), toy_pool(), out, OPTIONS)
    assert out.exists() == there
    assert not there or not list(out.iterdir())
    assert fit(Toy(steps=2), toy_pool(), out, OPTIONS).state["status"] == "finished"


def test_a_run_is_replaced_when_asked_and_comes_back_when_that_fails(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = fit(Toy(steps=2), toy_pool(), out, OPTIONS)
    weights = (first.model / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="out of cheese"):
        fit(Broken(steps=3), toy_pool(), out, OPTIONS, overwrite=True)
    assert (first.model / "model.safetensors").read_bytes() == weights
    assert RunFolder.open(out).state["status"] == "finished"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    second = fit(Toy(steps=3), toy_pool(), out, OPTIONS, overwrite=True)
    assert second.state["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_nothing_but_a_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("four years")
    with pytest.raises(RunError, match="contains no run: choose another folder"):
        fit(Toy(steps=2), toy_pool(), tmp_path / "run", OPTIONS, overwrite=True)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "four years"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        api.train("clip", WORLD, tmp_path / "file", **SMALL)


def test_weights_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_file({"x": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ConfigError, match="next to nothing"):
        api.train("clip", WORLD, tmp_path / "run", init=tmp_path / "other", **SMALL)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- more steps


def rows(path: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line for line in lines}


def test_a_finished_run_takes_more_steps(tmp_path: Path) -> None:
    """The samples and learning rates after the end are those of a run that was as long from the start."""
    short = fit(Toy(steps=12, witness=str(tmp_path / "short")), toy_pool(), tmp_path / "a", OPTIONS)
    long = fit(Toy(steps=20, witness=str(tmp_path / "long")), toy_pool(), tmp_path / "b", OPTIONS)
    again = resume(short.path, toy_pool(), kind=Toy, steps=20)
    assert again.state["status"] == "finished"
    assert again.state["step"] == 20
    theirs, ours = rows(Path(f"{tmp_path / 'long'}.0")), rows(Path(f"{tmp_path / 'short'}.0"))
    assert [ours[step]["uids"] for step in range(12, 20)] == [theirs[step]["uids"] for step in range(12, 20)]
    rate = {
        run.path.name: {line["step"]: line["lr"] for line in run.metrics() if line["kind"] == "train"} for run in (again, long)
    }
    assert [rate["a"][step] for step in range(13, 21)] == [rate["b"][step] for step in range(13, 21)]
    assert again.config["run"]["steps"] == 20
    assert resume(short.path, toy_pool(), kind=Toy).state["step"] == 20


def test_more_steps_that_cannot_be_are_refused(tmp_path: Path) -> None:
    run = fit(Toy(steps=4), toy_pool(), tmp_path / "run", OPTIONS)
    with pytest.raises(ConfigError, match=r"has taken 4 steps \(expected more than those: --steps 8\)"):
        resume(run.path, toy_pool(), kind=Toy, steps=4)
    assert RunFolder.open(run.path).state["status"] == "finished"
    run.write_state(status="stopped")
    with pytest.raises(RunError, match="more steps are for a finished run"):
        resume(run.path, toy_pool(), kind=Toy, steps=9)


def test_a_longer_run_is_scored_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych.cli import main

    run = tmp_path / "run"
    words = ["train", "clip", "--data", WORLD, "--out", str(run), "--steps", "1", "--batch-size", "4", "--width", "16"]
    assert main(words) == 0
    assert main(["train", "--resume", str(run), "--steps", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["step"] == 2
    assert found["report"] == str(run / "report.html")
    assert main([*words, "--overwrite"]) == 0
