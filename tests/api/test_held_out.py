"""Data without splits: a share is held out by group, and a score on rows that were trained on says so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych import api
from diptych.cli import main
from diptych.comparisons import job
from diptych.core.errors import ConfigError
from diptych.core.run_folder import RunFolder
from diptych.worlds.address import held_out, training_rows, with_held_out

SMALL: dict[str, Any] = {"batch_size": 8, "steps": 1, "width": 16, "progress": False}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred pictures of fifty groups, without a split."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    lines = ["image,caption,group"]
    for row in range(100):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        lines.append(f"{row}.png,picture of thing {row},thing{row // 2}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


def test_groups_are_held_out_and_none_is_in_both(table: Path) -> None:
    pool = api.read(table)
    made = with_held_out(pool)
    train, test = made.split("train"), made.split("test")
    assert len(test) == 10
    assert not {*train.groups} & {*test.groups}
    assert with_held_out(pool.select(range(99, -1, -1))).split("test").fingerprint == test.fingerprint, (
        "the order of rows decides"
    )
    assert with_held_out(made) is made
    assert with_held_out(pool, 0.0) is pool
    assert with_held_out(pool.select(range(20))).split_names == [], "ten groups are too few"
    with pytest.raises(ConfigError, match=r"hold_out is 0\.9"):
        with_held_out(pool, 0.9)


def test_a_run_is_scored_on_what_was_held_out(table: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    run = api.train("clip", table, tmp_path / "run", say=lines.append, **SMALL)
    assert "of 100 samples are held out 10 as 'test', whole groups each" in lines[0]
    assert run.state["held_out"] == 0.1
    results = api.evaluate_run(run)
    assert list(results) == ["test"]
    assert results["test"].notes["data"]["samples"] == 10
    whole = dp.evaluate(str(run.path), "retrieval", table)
    opened = dp.evaluate(dp.load(run.path), "retrieval", table)
    assert whole.notes["data"] == opened.notes["data"] == results["test"].notes["data"]
    assert dp.evaluate(dp.load(run.model), "retrieval", table).notes["data"]["samples"] == 100
    assert api.resume(run.path).state["status"] == "finished"
    assert "test" in api.report(run.path).read_text(encoding="utf-8")


def test_a_score_on_training_rows_says_so(table: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    run = api.train("clip", table, tmp_path / "run", hold_out=0.0, say=lines.append, **SMALL)
    assert "has no held-out rows" in lines[0]
    assert "held_out" not in run.state
    assert list(api.evaluate_run(run)) == ["training rows"]
    assert dp.evaluate(run.path, "retrieval", table).notes["data"]["name"] == "pairs/training rows"
    kept = api.evaluate_kept(run)
    assert list(kept) == ["training rows"]
    assert "training rows" in api.report(run.path).read_text(encoding="utf-8")


def test_a_run_from_before_trained_on_every_row(table: Path, tmp_path: Path) -> None:
    """A stopped run without a note of held-out rows goes on with the rows that it has."""
    run = api.train("clip", table, tmp_path / "run", hold_out=0.0, **SMALL)
    rows = training_rows(api.read(table))
    assert run.state["data"]["fingerprint"] == rows.fingerprint
    assert len(rows) == 100
    assert list(held_out(api.read(table))) == ["pairs"]


class CellProcess:
    """The program of a cell, run here instead of in a process of its own, which would import everything anew."""

    def __init__(self, words: list[str], **_: Any) -> None:
        assert words[1:3] == ["-m", "diptych.comparisons.job"]
        self.code = job.main(Path(words[3]))

    def wait(self, timeout: float | None = None) -> int:
        return self.code


def test_compare_holds_out_too_also_in_its_own_processes(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "subprocess", SimpleNamespace(Popen=CellProcess))
    monkeypatch.setattr(job, "_stop_without", lambda parent: None)
    lines: list[str] = []
    made = dp.compare(
        ["clip", "clip:lr=1e-3"], str(table), seeds=1, budget="steps:1", out=tmp_path, say=lines.append, batch_size=8, width=16
    )
    assert not made.measured.failures
    assert made.measured.data["training_rows"] == 90
    assert "10 samples are held out as 'test'" in lines[0]


def test_the_command_line_takes_the_share(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "clip", "--data", table, "--out", tmp_path / "run", "--steps", "1", "--batch-size", "8", "--json"]
    assert main([*map(str, words), "--hold-out", "0.2", "--width", "16"]) == 0
    assert list(json.loads(capsys.readouterr().out)["results"]) == ["test"]
    assert RunFolder.open(tmp_path / "run").state["held_out"] == 0.2
