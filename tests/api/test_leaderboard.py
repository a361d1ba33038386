"""Models by their records: order, paired tests, the questions on which they part, and the page on a phone."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted.estimators import Estimator, lengths
from planted.responders import Responder, quiz

import diptych as dp
from diptych.cli import main
from diptych.comparisons.statistics import mcnemar
from diptych.core.errors import ConfigError, DataError, RunError
from diptych.data.dataset import Pool
from diptych.tasks._scoring.records import read_records, with_facts
from diptych.tasks.choice.ii_bench import IIBench
from diptych.tasks.choice.multiple_choice import MultipleChoice
from diptych.tasks.choice.q_spatial import QSpatial
from diptych.tasks.choice.visual_reasoning import VisualReasoning
from diptych.tasks.evaluate import evaluate

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def asked(folder: Path, data: Pool, task: MultipleChoice, **models: Responder) -> list[Path]:
    for name, model in models.items():
        evaluate(task, replace(model, none_option=task.none_option).taught(data), data, out=folder / name)
    return [folder / name for name in models]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, list[Path]]:
    data, folder = quiz(60, seed=3), tmp_path_factory.mktemp("boards")
    models = {
        "weak": Responder("knower", 0.3, seed=1),
        "strong": Responder("knower", 0.9, seed=2),
        "first": Responder("first letter"),
    }
    return data, asked(folder, data, IIBench(draws=50), **models)


def test_the_better_one_stands_first_and_pairs_are_mcnemars(three: tuple[Pool, list[Path]], tmp_path: Path) -> None:
    data, records = three
    board = dp.leaderboard(records, data=data, page=tmp_path / "board.html")
    assert [one.name for one in board.standings] == ["knower, knows 0.9", "knower, knows 0.3", "first letter"]
    assert board.standings[0].chance == pytest.approx(1 / 6)
    best = board.pairings[0]
    assert (best.other, best.first, best.test) == ("knower, knows 0.9", "knower, knows 0.3", "McNemar, mid-p")
    right = [IIBench().item_values(read_records(next(one.glob("*.parquet"))), "accuracy") for one in records[:2]]
    wins, losses = ((right[1] > right[0]).sum(), (right[1] < right[0]).sum())  # type: ignore[operator]
    assert (best.view.wins, best.view.losses) == (wins, losses)
    assert best.p == mcnemar(int(wins), int(losses))[1] < 1e-4
    assert all(0 < pair.p <= pair.p_holm for pair in board.pairings)
    assert best.view.difference == pytest.approx(float(np.mean(right[1]) - np.mean(right[0])))  # type: ignore[arg-type]
    assert 0 < board.parted <= 60
    assert len(board.partings) == min(24, board.parted)
    for one in board.partings:
        assert {right for _, _, right in one.answers} == {True, False}
        assert all(right == (said == one.truth) for _, said, right in one.answers)
    html = (tmp_path / "board.html").read_text()
    assert "Where they part" in html
    assert html.count("data:image/webp") == len(board.partings)
    assert "<script" not in html


def test_several_orders_are_tested_by_groups(tmp_path: Path) -> None:
    data = quiz(20, seed=0)
    records = asked(tmp_path, data, VisualReasoning(draws=20), a=Responder("knower", 0.9), b=Responder("always none"))
    board = dp.leaderboard({"one": records[0], "two": records[1]})
    (pair,) = board.pairings
    assert pair.test == "sign flips of groups"
    assert (board.questions, board.groups) == (20 * 6, 20)
    assert [one.name for one in board.standings] == ["one", "two"]


def test_prompts_of_one_model_are_told_by_what_differs() -> None:
    data = lengths(40, seed=0)
    tables = []
    for prompt, how in (("standard", "prior"), ("single", "reference")):
        task = QSpatial(prompt=prompt, draws=20)  # type: ignore[arg-type]
        records = task.predict(Estimator(how).taught(data), data)  # type: ignore[arg-type]
        tables.append(with_facts(records, protocol="q_spatial v1", model={"name": "same"}, data={"name": "lengths"}))
    board = dp.leaderboard(tables)
    assert [one.name for one in board.standings] == ["same (prompt single)", "same (prompt standard)"]
    assert board.partings[0].truth.endswith(" cm")


def test_the_command_prints_and_writes(
    three: tuple[Pool, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, records = three
    assert main(["leaderboard", f"weak={records[0]}", f"strong={records[1]}", "--page", str(tmp_path / "b.html")]) == 0
    said = capsys.readouterr().out
    assert "strong minus weak: +0." in said
    assert "McNemar, mid-p" in said
    assert (tmp_path / "b.html").is_file()
    assert main(["leaderboard", *map(str, records), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["standings"][0]["name"] == "knower, knows 0.9"
    assert plain["pairings"][0]["view"]["wins"] > 0


def test_what_cannot_be_compared_is_one_line(three: tuple[Pool, list[Path]], tmp_path: Path) -> None:
    _, records = three
    with pytest.raises(ConfigError, match="records of 1 models"):
        dp.leaderboard(records[:1])
    other = asked(tmp_path, quiz(60, seed=4), IIBench(draws=20), other=Responder("first letter"))
    with pytest.raises(DataError, match=r"row 0, field 'options': the models answered different questions"):
        dp.leaderboard([records[0], *other])
    fewer = asked(tmp_path, quiz(59, seed=3), IIBench(draws=20), fewer=Responder("first letter"))
    with pytest.raises(DataError, match="row 59, field 'uid': the models answered different questions"):
        dp.leaderboard([records[0], *fewer])
    plain = asked(tmp_path, quiz(60, seed=3), MultipleChoice(blind=False, draws=20), plain=Responder("first letter"))
    with pytest.raises(DataError, match="of different protocols: ii_bench v1, multiple_choice v2"):
        dp.leaderboard([records[0], *plain])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds 0 files of records"):
        dp.leaderboard([records[0], tmp_path / "empty"])


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)")
def test_the_page_fits_a_phone(three: tuple[Pool, list[Path]], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    data, records = three
    names = [f"openai:http://127.0.0.1:8000/v1#a-model-with-a-long-name-{n}" for n in range(3)]
    dp.leaderboard(dict(zip(names, records, strict=True)), data=data, page=tmp_path / "board.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        tab = browser.new_page(viewport={"width": 375, "height": 800})
        tab.goto((tmp_path / "board.html").as_uri())
        wide = tab.evaluate("document.documentElement.scrollWidth")
        text = tab.inner_text("main")
        browser.close()
    assert wide <= 375
    assert "a-model-with-a-long-name-1 minus openai" in text
    assert "(right)" in text
    assert "(wrong)" in text
