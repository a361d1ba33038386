from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from diptych.core.errors import MissingExtra
from diptych.core.run_folder import RunFolder
from diptych.train.log import Log, _Bar, quarantined


def log(path: Path, start: int = 0, *, main: bool = True) -> Log:
    return Log(RunFolder(path), start=start, steps=10, progress=True, main=main)


def test_lines_after_the_resumed_step_and_a_cut_line_go(tmp_path: Path) -> None:
    with log(tmp_path) as first:
        for step in (1, 2, 3, 4):
            first.write(step, "train", loss=1.0 / step)
        first.write(4, "eval", value=math.nan)
        assert first.evaluated == 4
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "kind": "tr')
    with log(tmp_path, 2) as second:
        assert second.evaluated == -1
        second.note(2, "went on")
        second.write(3, "train", loss=0.5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"]) for line in lines] == [(1, "train"), (2, "train"), (2, "note"), (3, "train")]


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    with log(tmp_path) as journal:
        journal.write(1, "eval", a=math.inf, b={"c": [math.nan, 1.0]})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "kind": "eval", "a": None, "b": {"c": [None, 1.0]}}


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with log(tmp_path, main=False) as journal:
        journal.write(1, "train", loss=1.0)
        journal.quarantine('{"uid": "a"}')
        journal.advance(1, 2.0)
        journal.sync()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_stands_once_in_the_quarantine(tmp_path: Path) -> None:
    with log(tmp_path) as journal:
        journal.quarantine('{"uid": "a"}\n{"uid": "b"}\n{"uid": "a"}')
        journal.quarantine('{"uid": "b"}\n{"uid": "c"}')
        journal.quarantine("")
    assert (tmp_path / "quarantine.jsonl").read_text().splitlines() == ['{"uid": "a"}', '{"uid": "b"}', '{"uid": "c"}']
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write('{"uid": "cut')
    assert quarantined(RunFolder(tmp_path)) == {"a", "b", "c"}


def test_the_bar_shows_steps_and_loss_on_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    bar = _Bar(4, 10)
    bar.advance(10, 0.1234)
    bar.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "10/10" in shown.err


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"diptych\[track\]"):
        Log(RunFolder(tmp_path), start=0, steps=1, boards=["tensorboard"], progress=False, main=True)
