"""Training on a list of uids: what is read, which rows are used, what the run folder remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import DataError
from diptych.core.run_folder import RunFolder
from diptych.data.subset import read_uids, subset
from diptych.train.options import TrainOptions

WORLD = "world:scenes?n=24&val=4&test=4"
SMALL: dict[str, Any] = {"steps": 2, "batch_size": 4, "workers": 0}


def uids(split: str, count: int) -> list[str]:
    return list(dp.read(WORLD).split(split).uids[:count])


def test_a_list_is_one_uid_a_line(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("\ufeffb\r\n\n  a \nb\nä\n", encoding="utf-8")
    assert read_uids(file) == ["b", "a", "ä"]
    for content, problem in ((b"", "contains no uid"), (b"\xff\xfe\x00", "not UTF-8 text")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=problem):
            read_uids(file)
    with pytest.raises(DataError, match="no such file"):
        read_uids(tmp_path / "nowhere.txt")


def test_rows_keep_the_order_of_the_data_and_held_out_ones_never_train() -> None:
    whole = dp.read(WORLD)
    train = whole.split("train")
    named = [train.uids[5], train.uids[2], whole.split("val").uids[0]]
    assert list(subset(train, named, whole=whole).uids) == [train.uids[2], train.uids[5]]
    assert subset(train, named, whole=whole).fingerprint == subset(train, named[::-1], whole=whole).fingerprint
    with pytest.raises(DataError, match="uid 'nobody' and 1 more is not in"):
        subset(train, ["nobody", named[0], "else"], whole=whole)
    with pytest.raises(DataError, match="none of 1 uids"):
        subset(train, named[2:], whole=whole)


def test_a_run_sees_its_subset_only_and_goes_on_with_it(tmp_path: Path) -> None:
    chosen = uids("train", 8)
    file = tmp_path / "subset.txt"
    file.write_text("\n".join([*reversed(chosen), *uids("val", 2)]), encoding="utf-8")
    lines: list[str] = []
    run = dp.train("clip", WORLD, tmp_path / "run", subset=file, say=lines.append, **SMALL)
    assert "limited to 8 uids; 2 more are held out" in lines
    assert run.state["subset"] == 8
    file.unlink()  # the run folder remembers
    whole = dp.read(WORLD)
    assert run.state["data"]["fingerprint"] == subset(whole.split("train"), chosen).fingerprint
    run.write_state(status="stopped")
    assert dp.resume(run.path).state["status"] == "finished"
    everything = dp.train("clip", WORLD, tmp_path / "all", **SMALL)
    assert everything.state["data"] != run.state["data"]
    assert "subset" not in everything.state
    assert not everything.subset.exists()
    cost = dp.api.estimate("clip", WORLD, subset=chosen, options=TrainOptions(steps=2), batch_size=4)
    assert cost["epochs"] == 2 * 4 / 8


def test_the_command_takes_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "subset.txt"
    file.write_text("\n".join(uids("train", 6)), encoding="utf-8")
    words = ["train", "clip", "--data", WORLD, "--out", str(tmp_path / "run"), "--subset", str(file), "--no-evaluation"]
    assert main([*words, "--steps", "1", "--batch-size", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
    assert RunFolder.open(tmp_path / "run").state["subset"] == 6
    file.write_text("nobody\n", encoding="utf-8")
    assert main([*words[:5], str(tmp_path / "other"), *words[6:], "--json"]) == 1
    assert "uid 'nobody' is not in" in json.loads(capsys.readouterr().out)["error"]
    assert not (tmp_path / "other").exists()
