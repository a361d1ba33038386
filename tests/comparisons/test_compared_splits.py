"""Arms are chosen on one split and scored on another afterwards, without training; a second comparison in one folder is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import diptych as dp
from diptych.cli import main
from diptych.comparisons import job as cells
from diptych.core.disk.lock import exclusive
from diptych.core.errors import RunError, UnknownName

WORLD = "world:scenes?n=24&val=8&test=12&size=32"
SMALL: dict[str, Any] = {"batch_size": 8, "warmup": 0.0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300}
ARMS = ["clip", "fast=clip:lr=1e-2"]


def compared(out: Path, *splits: str, arms: list[str] = ARMS) -> Any:
    options: dict[str, Any] = {"tasks": ["retrieval:draws=20"], "seeds": 1, "budget": "steps:2", **SMALL}
    return dp.compare(arms, dp.read(WORLD), out=out, splits=splits, **options)


def test_test_rows_are_read_only_when_they_are_named_and_nothing_is_trained_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    chosen = compared(tmp_path / "out", "val")
    assert {measure.split for measure in chosen.measured.measures} == {"val"}
    assert not list((tmp_path / "out").glob("cells/*/records/*test*"))
    assert chosen.measured.unseen == ("test",)
    assert any(line.startswith("best on val: ") and "not looked at: test" in line for line in chosen.lines())

    monkeypatch.setattr(cells, "run_job", lambda *given, **named: pytest.fail("trained again"))
    monkeypatch.setattr(cells, "run_apart", lambda *given, **named: pytest.fail("trained again"))
    final = compared(tmp_path / "out", "test")
    assert {measure.split for measure in final.measured.measures} == {"test"}
    assert final.measured.looks == {"val": 1, "test": 1}
    again = compared(tmp_path / "out", "test")  # what is there is read: no further look
    assert again.measured.looks == {"val": 1, "test": 1}
    whole = compared(tmp_path / "out")
    assert {measure.split for measure in whole.measured.measures} == {"val", "test"}

    monkeypatch.undo()
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    straight = compared(tmp_path / "straight")  # scored when it was trained
    assert straight.measured.main_measures[1].values == final.measured.main_measures[0].values
    more = compared(tmp_path / "out", "test", arms=[*ARMS, "slow=clip:lr=1e-5"])
    assert more.measured.looks["test"] == 2
    assert any(line.startswith("test: looked at 2 times") for line in more.lines())


def test_a_split_that_is_not_held_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="train"):
        compared(tmp_path / "out", "train")


def test_a_second_comparison_in_one_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    with exclusive(out, ".lock", "a test"):
        with pytest.raises(RunError, match="a comparison is at work"):
            compared(out)
        assert main(["compare", *ARMS, "--data", WORLD, "--out", str(out), "--budget", "steps:2", "--seeds", "1"]) == 1
    assert len([line for line in capsys.readouterr().err.splitlines() if "error" in line]) == 1
    assert not list(out.glob("cells/*"))
    assert not (out / "comparison.json").exists()


def test_looks_outlive_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    compared(tmp_path / "out", "val")
    kept = json.loads((tmp_path / "out" / "looks.json").read_text())
    assert list(kept) == ["val"]
    assert kept["val"][0]["cells"] == 2
