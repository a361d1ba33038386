"""A table whose columns have names of its own: training takes them, and whatever comes after knows them again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych import api
from diptych.cli import main
from diptych.core.errors import RunError
from diptych.core.run_folder import RunFolder

TINY = ["--steps", "1", "--batch-size", "8", "--width", "16"]
COLUMNS = ["--image", "where", "--text", "says", "--group", "who"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["where;says;who"]
    for row in range(40):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png;thing {row}, or so;g{row // 2}")
    (tmp_path / "odd.csv").write_text("\n".join(lines))
    return tmp_path / "odd.csv"


def test_training_takes_the_columns_and_the_run_remembers_them(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = table.parent / "run"
    assert main(["train", "clip", "--data", str(table), "--out", str(run), *COLUMNS, *TINY, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["results"]) == ["test"]
    opened = RunFolder.open(run)
    assert opened.state["columns"] == {"image": "where", "text": ["says"], "group": "who"}
    assert main(["train", "--resume", str(run), "--steps", "2"]) == 0
    assert dp.evaluate(run, "retrieval", table).n_items > 0
    assert main(["eval", str(run), "retrieval", "--data", str(table)]) == 0
    assert api.report(run).is_file()
    assert main(["train", "clip", "--data", str(table), "--dry-run", *COLUMNS, *TINY]) == 0


def test_a_command_without_columns_says_what_to_do_first(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "clip", "--data", str(table), "--out", str(table.parent / "run"), *TINY]) == 1
    assert "(expected --image COLUMN, or a column 'prompt')" in capsys.readouterr().err
    assert main(["compare", "clip", "siglip", "--data", str(table), "--budget", "steps:1"]) == 1
    assert "a data set built first: diptych data build SRC OUT --image COLUMN" in capsys.readouterr().err
    assert main(["data", "build", str(table), str(table.parent / "built"), *COLUMNS]) == 0


def test_a_run_file_fetches_nothing(table: Path) -> None:
    run = api.train(
        "clip", table, table.parent / "run", columns={"image": "where", "text": "says"}, batch_size=8, steps=1, width=16
    )
    run.write_state(columns={"root": "https://elsewhere/"})
    with pytest.raises(RunError, match="an address in a file is not opened"):
        api.evaluate_run(run)
