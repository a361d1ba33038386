"""Sweeps: trials are told by the evaluation, pruned, failed and killed ones are called so, nothing is lost, errors are one line."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from warm_programs import Program

import diptych as dp
from diptych.api import sweeps
from diptych.api.sweep_ranges import sweep_ranges
from diptych.cli import main
from diptych.core.errors import ConfigError, RunError
from diptych.core.run_folder import RunFolder
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.mix import Mix

WORLD = "world:scenes?n=24&val=8&test=8&size=32"
SMALL: dict[str, Any] = {
    "steps": 4, "batch_size": 8, "warmup": 0.0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300,
}  # fmt: skip


def swept(out: Path, **changes: Any) -> sweeps.Sweep:
    given: dict[str, Any] = {"over": ["lr=log(1e-4,1e-2)", "batch_size=4,8"], "trials": 3, "out": out, "evaluations": 2, **SMALL}
    return dp.sweep("clip", WORLD, **{**given, **changes})


def test_a_sweep_ends_in_a_file_that_trains_and_a_page(tmp_path: Path) -> None:
    told: list[str] = []
    done = swept(tmp_path / "s", say=told.append)
    assert [trial.state for trial in done.trials] == ["finished"] * 3
    assert all(trial.fields.keys() == {"lr", "batch_size"} and trial.fields["batch_size"] in (4, 8) for trial in done.trials)
    best = done.best
    assert best is not None
    last = [line for line in RunFolder(tmp_path / f"s/trials/{best.number:04d}").metrics() if line["kind"] == "eval"][-1]
    assert best.value == max(trial.value for trial in done.trials) == last["retrieval-val/r@1"]
    plain = yaml.safe_load((tmp_path / "s/best.yaml").read_text())
    assert plain["recipe"]["lr"] == best.fields["lr"]
    assert main(["train", "--config", str(tmp_path / "s/best.yaml"), "--out", str(tmp_path / "r"), "--no-evaluation"]) == 0
    assert RunFolder.open(tmp_path / "r").config["recipe"]["batch_size"] == best.fields["batch_size"]
    page = (tmp_path / "s/sweep.html").read_text()
    assert page.count('aria-label="lr"') == 1
    with (tmp_path / "s/trials.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    again = swept(tmp_path / "s", trials=4)  # goes on, and draws no trial twice
    assert len({trial.fields["lr"] for trial in again.trials}) == 4


def test_pruned_and_failed_trials_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.9, 0.9, 0.9, 0.9, 0.1])  # two evaluations of two trials, then one of the third

    def validators(made: Any, whole: Any, options: Any) -> Any:
        if made.lr == 1e-3:
            raise ConfigError("no such rate")
        return (("retrieval-val", lambda model: {"r@1": next(values)}),)

    monkeypatch.setattr(sweeps, "validators", validators)
    over = {"lr": [1e-4, 1e-3, 2e-4, 3e-4]}
    done = swept(tmp_path / "s", over=over, trials=4, sampler="grid", prune=True, prune_after=2)
    assert [trial.state for trial in done.trials] == ["finished", "failed", "finished", "pruned"]
    assert done.trials[1].reason == "no such rate"
    assert (done.trials[3].steps, done.trials[3].value) == (2, 0.1)
    run = RunFolder(tmp_path / "s/trials/0003")
    assert run.state["status"] == "pruned"
    assert "1 failed" in done.lines()[0]
    assert "trial 1 failed: no such rate" in done.lines()[-1]


@pytest.mark.slow
def test_a_sweep_killed_by_signal_9_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for name, value in SMALL.items() for word in (f"{name}={value}",)]
    command = ["sweep", "clip", "--data", WORLD, "--over", "lr=log(1e-4,1e-2)", "--trials", "2",
               "--evaluations", "4", "--out", str(tmp_path / "s"), "--set", *words, "steps=40"]  # fmt: skip
    child = Program("-m", "diptych", *command)
    metrics, limit = tmp_path / "s/trials/0000/metrics.jsonl", time.monotonic() + 240
    while not (metrics.is_file() and '"eval"' in metrics.read_text()) and time.monotonic() < limit and child.poll() is None:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    cut = RunFolder(tmp_path / "s/trials/0000")
    assert cut.state["status"] == "running"
    rate = cut.config["recipe"]["lr"]
    assert main([*command, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [trial["state"] for trial in plain["trials"]] == ["finished", "finished"]
    assert plain["trials"][0]["lr"] == rate
    steps = [line["step"] for line in cut.metrics() if line["kind"] == "eval"]
    assert steps == [10, 20, 30, 40]


def test_ranges_are_typed_by_the_field(tmp_path: Path) -> None:
    lr, batch = sweep_ranges(["lr=log(1e-4, 1e-2)", "batch_size=uniform(4,8)"], CLIP.tiny())
    assert (lr.low, lr.high, lr.log, lr.integer) == (1e-4, 1e-2, True, False)
    assert batch.integer
    (dims,) = sweep_ranges(["dims=[8,32],[16,128]"], Mix.tiny())
    assert dims.choices == ([8, 32], [16, 128])
    assert dims.value_of(dims.labels[1]) == [16, 128]


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (["lr"], "expected FIELD=RANGE"),
        (["lr=lgo(1e-4,1e-2)"], "range lr=lgo(1e-4,1e-2) (expected log(LOW,HIGH)"),
        (["lr=log(1e-2,1e-4)"], "expected the lower end first"),
        (["lr=log(0,1)"], "the first above 0"),
        (["lr=log(1e-4)"], "expected two numbers"),
        (["learning_rate=log(1e-4,1e-2)"], "unknown field of 'clip' 'learning_rate'"),
        (["batch_size=4,big"], "sweep over batch_size: CLIP.batch_size is 'big' (expected int)"),
        (["batch_size=uniform(1.5,4)"], "takes whole numbers"),
        (["lr=1e-3"], "expected two or more"),
        (["lr=1e-3,1e-4", "lr=1,2"], "two ranges"),
    ],
)
def test_a_wrong_range_is_one_line_before_anything_is_trained(over: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["sweep", "clip", "--data", WORLD, "--out", str(tmp_path / "s"), "--over", *over]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_two_sweeps_in_one_folder_and_trials_that_all_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(sweeps, "validators", broken)
    with pytest.raises(RunError, match=r"every trial of .* failed; the first error was: MemoryError: no room"):
        swept(tmp_path / "s", trials=1)
    with pytest.raises(RunError, match=r"holds a sweep with other over .*choose another --out"):
        swept(tmp_path / "s", over=["lr=1e-3,1e-4"])
    with pytest.raises(RunError, match=r"holds a sweep with other fields .width 16, now 32"):
        swept(tmp_path / "s", width=32)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and contains no sweep"):
        swept(tmp_path / "full")
    with pytest.raises(RunError, match="the storage nonsense:// cannot be used"):
        swept(tmp_path / "t", storage="nonsense://")
