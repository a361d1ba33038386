"""A run that is killed, again and again, ends in the same bytes as one that never was."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from toy import Toy, toy_pool
from warm_programs import Program

from diptych.core.errors import ConfigError, RunError
from diptych.core.run_folder import RunFolder
from diptych.train import checkpoint
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

HERE = Path(__file__).parent
SAMPLES, STEPS = 50, 60
RECIPE = {"steps": STEPS, "dropout": 0.3, "average": True, "pause": 0.004}
OPTIONS = {"save_every": 7, "log_every": 1, "micro_batch": 3, "eval_every": 0}


def start(out: Path, witness: Path, workers: int) -> Program:
    plan = {
        "out": str(out),
        "recipe": {**RECIPE, "witness": str(witness)},
        "options": {**OPTIONS, "workers": workers},
        "resume": True,
        "samples": SAMPLES,
    }
    return Program(str(HERE / "toy.py"), json.dumps(plan), session=True)


def finish(process: Program) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Whole lines; the last may be cut by a kill."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def kill_at(process: Program, witness: Path, step: int, pause: float) -> None:
    """SIGKILL to the process and its loaders, `pause` seconds after it began step `step`."""
    before = time.monotonic()
    while process.poll() is None and not any(line["step"] >= step for line in lines_of(witness)[-1:]):
        assert time.monotonic() - before < 120
        time.sleep(0.002)
    time.sleep(pause)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(out, out.parent / "witness", 0))
    return out


@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        (1, 1),
        pytest.param(0, 2, marks=pytest.mark.slow),
        *(pytest.param(workers, 10, marks=pytest.mark.slow) for workers in (0, 1, 2)),
    ],
)
def test_kill_minus_nine_changes_nothing(workers: int, kills: int, undisturbed: Path, tmp_path: Path) -> None:
    dice = random.Random(workers * 100 + kills)
    out, witness = tmp_path / "run", tmp_path / "witness"
    for turn in range(kills):
        process = start(out, witness, workers)
        reached = max((line["step"] for line in lines_of(Path(f"{witness}.0"))), default=0)
        target = min(reached + dice.randrange(1, 2 * STEPS // (kills + 1)), STEPS - kills + turn)
        kill_at(process, Path(f"{witness}.0"), target, dice.random() * 0.02)
    assert RunFolder.open(out).state["status"] == "running"
    finish(start(out, witness, workers))

    assert RunFolder.open(out).state["status"] == "finished"
    assert (out / "model/model.safetensors").read_bytes() == (undisturbed / "model/model.safetensors").read_bytes()
    last = f"checkpoints/step-{STEPS:08d}"
    for name in ("model", "optimiser", "hooks"):
        assert (out / last / f"{name}.safetensors").read_bytes() == (undisturbed / last / f"{name}.safetensors").read_bytes()
    assert comparable(out) == comparable(undisturbed)
    assert len(list((out / "checkpoints").iterdir())) == 2

    uids: dict[int, list[str]] = {}
    for line in lines_of(Path(f"{witness}.0")):
        assert line["count"] == line["step"] + 1, "the hook's state was not restored with the weights"
        assert uids.setdefault(line["step"], line["uids"]) == line["uids"], "a step that was done again saw other samples"
    order = [uid for step in range(STEPS) for uid in uids[step]]
    for epoch in range(len(order) // SAMPLES):
        assert len(set(order[epoch * SAMPLES : (epoch + 1) * SAMPLES])) == SAMPLES


def comparable(out: Path) -> list[dict[str, Any]]:
    """What the log says, without durations; each step once."""
    lines = [line for line in lines_of(out / "metrics.jsonl") if line["kind"] != "note"]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, STEPS + 1))
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second", "tflops")} for line in lines]


# ---------------------------------------------------------------- in this process


SMALL: dict[str, Any] = {"steps": 12, "dropout": 0.3}


def run_small(out: Path, **changes: Any) -> RunFolder:
    options = TrainOptions(save_every=4, log_every=1, progress=False, keep=2, precision="fp32")
    return fit(Toy(**{**SMALL, **changes}), toy_pool(), out, options)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (run_small(tmp_path_factory.mktemp("small") / "run").model / "model.safetensors").read_bytes()


@pytest.fixture
def stopped(tmp_path: Path) -> RunFolder:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run = run_small(tmp_path / "run", witness=str(tmp_path / "witness"), stop_at=9)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    return run


def test_sigterm_finishes_the_step_saves_and_can_be_resumed(stopped: RunFolder, small: bytes) -> None:
    assert stopped.state["status"] == "stopped"
    assert checkpoint.steps_of(stopped.checkpoints) == [8, 10]
    assert not stopped.model.exists()
    run = resume(stopped.path, toy_pool(), kind=Toy)
    assert run.state["status"] == "finished"
    assert (run.model / "model.safetensors").read_bytes() == small


def test_a_finished_run_is_returned_at_once(tmp_path: Path) -> None:
    run = run_small(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    resume(run.path, toy_pool(3), kind=Toy)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


@pytest.mark.parametrize("file", ["model.safetensors", "optimiser.safetensors", "hooks.json", "state.json"])
def test_a_truncated_checkpoint_is_passed_over_with_a_note(file: str, stopped: RunFolder, small: bytes) -> None:
    victim = stopped.checkpoints / "step-00000010" / file
    victim.write_bytes(victim.read_bytes()[:-1])
    run = resume(stopped.path, toy_pool(), kind=Toy)
    assert (run.model / "model.safetensors").read_bytes() == small
    notes = [line["text"] for line in run.metrics() if line["kind"] == "note"]
    assert len(notes) == 1
    assert "passed over" in notes[0]
    assert "step-00000010" in notes[0]


def test_a_changed_byte_is_noticed(stopped: RunFolder, small: bytes) -> None:
    victim = stopped.checkpoints / "step-00000010" / "model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    assert (resume(stopped.path, toy_pool(), kind=Toy).model / "model.safetensors").read_bytes() == small


def test_no_whole_checkpoint_is_an_error_and_not_a_fresh_start(stopped: RunFolder) -> None:
    for folder in stopped.checkpoints.iterdir():
        (folder / "state.json").unlink()
    with pytest.raises(RunError, match=r"no checkpoint in .* is whole"):
        resume(stopped.path, toy_pool(), kind=Toy)


def test_other_data_is_refused(stopped: RunFolder) -> None:
    with pytest.raises(RunError, match=r"was trained on 'toy' as it was then; 'toy' differs from it now"):
        resume(stopped.path, toy_pool(51), kind=Toy)


def test_only_options_that_do_not_change_what_is_learned_may_change(stopped: RunFolder, small: bytes) -> None:
    with pytest.raises(
        ConfigError,
        match=r"seed cannot change in the middle of a run \(these can: board_group, board_tags, checkpoint_layers, device, keep, ",
    ):
        resume(stopped.path, toy_pool(), kind=Toy, changes={"seed": 1})
    run = resume(stopped.path, toy_pool(), kind=Toy, changes={"workers": 1, "save_every": 1, "keep": 3})
    assert checkpoint.steps_of(run.checkpoints) == [10, 11, 12]
    assert (run.model / "model.safetensors").read_bytes() == small


def test_an_edited_configuration_is_refused(stopped: RunFolder) -> None:
    config = stopped.path / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.01", "lr: 0.02"))
    with pytest.raises(RunError, match=r"config.yaml is not the configuration"):
        resume(stopped.path, toy_pool(), kind=Toy)


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path, small: bytes) -> None:
    run = run_small(tmp_path / "run", witness=str(tmp_path / "witness"), stop_at=2)
    for folder in run.checkpoints.iterdir():
        checkpoint._remove(folder)
    killed = {name: value for name, value in run.state.items() if name != "step"} | {"status": "running"}
    (run.path / "run.json").write_text(json.dumps(killed))  # as SIGKILL leaves it: no step was written down
    assert (resume(run.path, toy_pool(), kind=Toy).model / "model.safetensors").read_bytes() == small


def test_an_error_leaves_a_run_that_says_so_and_goes_on(tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Toy.losses

    def broken(self: Toy, features: Any, batch: Any) -> Any:
        if (tmp_path / "run/checkpoints/step-00000008").exists():
            raise ValueError("out of cheese")
        return whole(self, features, batch)

    monkeypatch.setattr(Toy, "losses", broken)
    with pytest.raises(ValueError, match="out of cheese"):
        run_small(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").state["status"] == "failed"
    assert RunFolder.open(tmp_path / "run").state["error"] == "ValueError: out of cheese"
    monkeypatch.setattr(Toy, "losses", whole)
    assert (resume(tmp_path / "run", toy_pool(), kind=Toy).model / "model.safetensors").read_bytes() == small


def test_a_full_disk_keeps_the_checkpoints_before(stopped: RunFolder, small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        with pytest.raises(RunError, match=r"No space left on device.*make room"):
            resume(stopped.path, toy_pool(), kind=Toy)
    assert checkpoint.steps_of(stopped.checkpoints) == [8, 10]
    assert not list(stopped.checkpoints.glob(".*"))
    assert (resume(stopped.path, toy_pool(), kind=Toy).model / "model.safetensors").read_bytes() == small


def test_a_run_whose_checkpoints_are_gone_says_so(stopped: RunFolder) -> None:
    shutil.rmtree(stopped.checkpoints)
    with pytest.raises(RunError, match=r"took 10 steps, and its checkpoints are gone: put them back into .*, or start") as caught:
        resume(stopped.path, toy_pool(), kind=Toy)
    assert "\n" not in str(caught.value)


def test_a_run_without_evaluation_is_resumed_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also once it is finished; a run with one is evaluated when that is missing."""
    import diptych.api as api
    from diptych.cli import main

    evaluated: list[str] = []
    monkeypatch.setattr(api, "evaluate_run", lambda run, data: evaluated.append(run.path.name) or {})
    monkeypatch.setattr(api, "report", lambda path, data: path / "report.html")
    words = ["train", "clip", "--data", "world:scenes?n=24", "--steps", "1", "--batch-size", "4", "--no-evaluation"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert evaluated == []
    RunFolder(tmp_path / "run").write_state(no_evaluation=False)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert evaluated == ["run"]
