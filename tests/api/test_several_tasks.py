"""A leaderboard over queries of retrieval, and several tasks of one model in one call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import DataError
from diptych.tasks._scoring.records import read_records
from diptych.tasks.pairs.retrieval import Retrieval

WORLD = "world:scenes?n=24&test=12&size=32"
SMALL: dict[str, Any] = {"batch_size": 8, "warmup": 0.0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        dp.train("clip", WORLD, folder / name, steps=steps, progress=False, **SMALL).path for name, steps in (("a", 1), ("b", 12))
    ]


def test_retrieval_has_a_leaderboard_whose_rows_are_queries(runs: list[Path], tmp_path: Path) -> None:
    for run in runs:
        dp.evaluate(run, "retrieval", WORLD, out=tmp_path / run.name, split="test", draws=50)
    board = dp.leaderboard({run.name: tmp_path / run.name for run in runs}, data=WORLD, page=tmp_path / "board.html")
    tables = {run.name: read_records(next((tmp_path / run.name).glob("*.parquet"))) for run in runs}
    assert (board.metric, board.questions) == ("r@1", len(tables["a"]))
    values = {name: Retrieval().score(table).value for name, table in tables.items()}
    assert {row.name: row.value for row in board.standings} == values
    (pair,) = board.pairings
    assert pair.view.difference == pytest.approx(values[pair.other] - values[pair.first])
    assert all({right for *_, right in one.answers} == {True, False} for one in board.partings)
    assert all(one.question for one in board.partings)
    dp.evaluate(runs[0], "retrieval", WORLD.replace("test=12", "test=11"), out=tmp_path / "other", split="test", draws=50)
    with pytest.raises(DataError, match="the models answered different questions"):
        dp.leaderboard([tmp_path / "a", tmp_path / "other"])


def test_several_tasks_and_all_of_them_in_one_call(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "eval",
        str(runs[0]),
        "retrieval:draws=20,ks=[1,2],probe:draws=20,minimum=1",
        "--data",
        WORLD,
        "--out",
        str(tmp_path / "r"),
    ]
    assert main([*words, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert list(plain["tasks"]) == ["retrieval:draws=20,ks=[1,2]", "probe:draws=20,minimum=1"]
    assert "t2i_r@2" in plain["tasks"]["retrieval:draws=20,ks=[1,2]"]["test"]["metrics"]
    assert main(["eval", str(runs[0]), "retrieval,nothing", "--data", WORLD]) == 2
    assert "unknown task 'nothing'" in capsys.readouterr().err


@pytest.mark.slow
def test_all_leaves_out_what_the_data_lack_with_the_reason(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(runs[0]), "all", "--data", WORLD, "--out", str(tmp_path / "r"), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert "retrieval" in plain["tasks"]
    assert plain["left_out"]
    assert all(reason and "\n" not in reason for reason in plain["left_out"].values())
