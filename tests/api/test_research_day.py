"""A day of a researcher: own loss, configuration file, a sweep that is killed and goes on, three mixes over three seeds, a LaTeX table,
and a folder that moves to another place and goes on there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from diptych.cli import main
from diptych.core.run_folder import RunFolder

WORLD = "world:scenes?n=32&val=8&test=12&size=32"
LOSS = """import torch
from diptych.objectives.pairs.info_nce import info_nce


def focal(image_ND, text_ND, *, scale, bias, group_N, weight_N):
    each_N, _ = info_nce(image_ND, text_ND, scale=scale, group_N=group_N, weight_N=weight_N, reduction="none")
    return ((1 - torch.exp(-each_N.detach())) * each_N).mean()
"""
SMALL = {"batch_size": 8, "warmup": 0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300}
OVER = {"lr": "log(1e-4,1e-2)", "queue": [0, 16]}
FILE = {
    "sweep": {"recipe": "mix", "data": WORLD, "over": OVER, "trials": 3, "out": "sweep", "evaluations": 4},
    "recipe": {**SMALL, "steps": 40},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a dozen processes
def test_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    day = tmp_path / "day"
    day.mkdir()
    monkeypatch.chdir(day)
    Path("losses.py").write_text(LOSS)
    Path("mine.yaml").write_text(yaml.safe_dump(FILE))

    # A sweep by a file, killed in its first trial; the same command goes on with that trial.
    command = [sys.executable, "-m", "diptych", "sweep", "--config", "mine.yaml", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics, limit = Path("sweep/trials/0000/metrics.jsonl"), time.monotonic() + 240
    while not (metrics.is_file() and '"eval"' in metrics.read_text()) and child.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert RunFolder(Path("sweep/trials/0000")).state["status"] == "running"
    plain = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [trial["state"] for trial in plain["trials"]] == ["finished"] * 3

    # The best configuration with a loss of one's own.
    assert (
        main(
            ["train", "--config", "sweep/best.yaml", "--queue", "0", "--loss", "losses.py:focal", "--out", "own", "--steps", "4"]
        )
        == 0
    )
    assert "losses.py" in {path.name for path in RunFolder(Path("own")).source.iterdir()}

    # Three mixes over three seeds, and the table.
    arms = {
        "softmax": "mix",
        "own": {"recipe": "mix", "loss": "losses.py:focal"},
        "all": {"recipe": "mix", "policy": "sentences", "count": 2, "raw_first": True, "loss": "sigmoid", "dims": [4, 16]},
    }
    compared = {"arms": arms, "data": WORLD, "seeds": 3, "budget": "steps:4", "out": "compared", "set": SMALL}
    compared["tasks"] = ["retrieval:draws=50"]
    Path("compare.yaml").write_text(yaml.safe_dump({"compare": compared}, sort_keys=False))
    assert main(["compare", "--config", "compare.yaml"]) == 0
    kept = json.loads(Path("compared/comparison.json").read_text())
    assert not kept["failures"]
    assert main(["table", "compared", "--format", "latex", "--out", "table.tex", "--points"]) == 0
    table = Path("table.tex").read_text()
    assert all(f"  {name} & " in table for name in arms)
    assert "chance & " in table
    assert main(["table", "own", "--format", "md"]) == 0
    capsys.readouterr()

    # The whole folder moves; the run goes on there, once the file of the loss was named.
    monkeypatch.chdir(tmp_path)
    moved = Path(shutil.move(day, tmp_path / "elsewhere"))
    monkeypatch.chdir(moved)
    assert main(["train", "--resume", "own", "--steps", "8"]) == 1
    assert "a program that nobody named on this machine yet" in capsys.readouterr().err
    assert main(["train", "--resume", "own", "--steps", "8", "--recipe", "losses.py"]) == 0
    assert RunFolder(Path("own")).state["step"] == 8
    assert main(["run-info", "own"]) == 0
    assert "losses.py:focal" in capsys.readouterr().out
