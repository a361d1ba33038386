"""One command for the first start of a run and for every restart: `diptych train RECIPE --data D --out R --resume auto`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killed_runs import kill_at, start

from diptych.cli import main
from diptych.core.run_folder import RunFolder

DATA = "world:scenes?n=24"


def words(out: Path, *more: str, steps: int = 6) -> list[str]:
    command = f"train clip --data {DATA} --out {out} --resume auto --steps {steps} --batch-size 8 --save-every 1 --no-evaluation"
    return [*command.split(), *more]


def weights(out: Path) -> bytes:
    return (out / "model/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(words(out)) == 0
    return out


def test_a_finished_run_is_left_as_it_is(whole: Path) -> None:
    before = (whole / "run.json").read_text()
    assert main(words(whole)) == 0
    assert main(words(whole, "--workers", "1", "--micro-batch", "4")) == 0, "options that may change"
    assert (whole / "run.json").read_text() == before


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--lr", "0.5"], "was started with lr "),
        (["--seed", "3"], "was started with seed 0, and is to go on with 3 (expected the same, or another --out)"),
        (["--lora", "8"], "was started with lora "),
    ],
)
def test_another_configuration_is_refused(
    given: list[str], problem: str, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(whole, *given)) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert len(error.splitlines()) == 1


def test_another_recipe_is_refused(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "siglip", "--data", DATA, "--out", str(whole), "--resume", "auto"]) == 2
    assert "is a run of 'clip', not of 'siglip' (expected another --out)" in capsys.readouterr().err


def test_what_was_killed_before_it_began_starts_anew(whole: Path, tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", slug="clip", environment={})
    assert main(words(tmp_path / "run")) == 0
    assert weights(tmp_path / "run") == weights(whole)


def test_resume_takes_the_options_that_may_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run stops in the middle, as after a kill: its last checkpoints are gone, and its state says that it is running."""
    out = tmp_path / "run"
    assert main([*words(out), "--keep", "9"]) == 0
    cut_back(out, 3)
    assert main(["train", "--resume", str(out), "--workers", "1", "--micro-batch", "4", "--keep", "2", "--device", "cpu"]) == 0
    assert [row["step"] for row in RunFolder.open(out).metrics() if row["kind"] == "train"] == [6]
    assert len(list((out / "checkpoints").iterdir())) == 2, "--keep 2"
    cut_back(out, 6)
    assert main(["train", "--resume", str(out), "--device", "cuda:99"]) == 2
    assert "device is 'cuda" in capsys.readouterr().err


def cut_back(out: Path, step: int) -> None:
    folder = RunFolder.open(out)
    for path in (out / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    folder.write_state(status="running", step=step)


@pytest.mark.slow
def test_the_same_command_after_a_kill(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "diptych", *words(out, "--workers", "1")]
    kill_at(out, 2, start(command))
    assert RunFolder.open(out).state["status"] == "running"
    assert subprocess.run(command, check=False).returncode == 0
    assert weights(out) == weights(whole)


@pytest.mark.slow
def test_two_nodes_one_of_which_is_killed(tmp_path: Path) -> None:
    """Two torchrun agents over loopback, as two machines of a cluster; both are started again, as a queue does, with the same words."""
    out, alone = tmp_path / "run", tmp_path / "alone"

    def nodes(folder: Path) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=7"]
        run = ["--no-python", sys.executable, "-m", "diptych", *words(folder, "--shard", "ddp", "--silence", "10", steps=8)]
        return [start([sys.executable, "-m", "torch.distributed.run", *shared, *run]) for _ in range(2)]

    first = nodes(out)
    kill_at(out, 3, first[1])
    first[0].communicate(timeout=240)  # the other one notices, and ends by itself
    assert first[0].returncode != 0
    facts: dict[str, Any] = json.loads((out / "run.json").read_text())
    assert facts["status"] in ("stopped", "running", "failed")
    for folder in (out, alone):
        for node in nodes(folder):
            _, said = node.communicate(timeout=240)
            assert node.returncode == 0, said[-3000:]
    assert RunFolder.open(out).state["status"] == "finished"
    assert weights(out) == weights(alone)
