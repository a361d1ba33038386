"""Ctrl-C and SIGTERM end every command with 130 and 143, so that nothing after ``&&`` begins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diptych import cli
from diptych.core.run_folder import RunFolder

BOTH = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
TRAIN = ["train", "clip", "--data", "world:scenes?n=40", "--steps", "1000", "--batch-size", "4", "--log-every", "1"]


@BOTH
@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("train", "serve")])
def test_every_command_says_by_its_exit_code_that_it_was_ended(
    command: str, number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def work(words: Any) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(20)
        finally:
            cleaned.append(command)
        return 0

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(main=work))
    begun = time.monotonic()
    assert cli.main([command, "--json"]) == code
    assert time.monotonic() - begun < 5
    assert cleaned == [command]
    said = capsys.readouterr()
    assert json.loads(said.out)["kind"] == ("Terminated" if number == signal.SIGTERM else "KeyboardInterrupt")
    assert said.err.count("\n") == 1


def signal_at(run: Path, number: int) -> None:
    """Sends it to this process once the run has done a step."""
    while not any(line.get("kind") == "train" for line in RunFolder(run).metrics()):
        time.sleep(0.02)
    os.kill(os.getpid(), number)


@BOTH
def test_training_saves_and_says_that_it_was_stopped(
    number: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    threading.Thread(target=signal_at, args=(run, number), daemon=True).start()
    assert cli.main([*TRAIN, "--out", str(run), "--json"]) == code
    state = RunFolder.open(run).state
    assert (state["status"], state["signal"]) == ("stopped", number)
    assert state["step"] >= 1
    assert (run / "checkpoints" / f"step-{state['step']:08d}").is_dir()
    assert json.loads(capsys.readouterr().out) == {"run": str(run), "status": "stopped", "step": state["step"]}


def test_who_asks_in_the_last_step_gets_neither_evaluation_nor_a_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diptych.train.state import Training

    finish, run = Training.finish, tmp_path / "run"

    def asked(training: Training) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        finish(training)

    monkeypatch.setattr(Training, "finish", asked)
    words = [word if word != "1000" else "2" for word in TRAIN]
    assert cli.main([*words, "--out", str(run)]) == 143
    assert RunFolder.open(run).state["status"] == "finished"
    assert not RunFolder(run).report.exists()
    assert f"diptych train --resume {run}" in capsys.readouterr().out
    assert cli.main(["train", "--resume", str(run), "--json"]) == 0
    assert RunFolder(run).report.exists()


@pytest.mark.slow
@BOTH
def test_nothing_after_it_begins(number: int, code: int, tmp_path: Path) -> None:
    run, after = tmp_path / "run", tmp_path / "after"
    words = " ".join([sys.executable, "-m", "diptych", *TRAIN, "--out", str(run)]).replace("?", "\\?")
    shell = subprocess.Popen(f"{words} && touch {after}; exit $?", shell=True, start_new_session=True)
    while not any(line.get("kind") == "train" for line in RunFolder(run).metrics()):
        assert shell.poll() is None
        time.sleep(0.1)
    (child,) = subprocess.run(["pgrep", "-P", str(shell.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(child), number)
    assert shell.wait(120) == code
    assert not after.exists()
    assert RunFolder.open(run).state["status"] == "stopped"
