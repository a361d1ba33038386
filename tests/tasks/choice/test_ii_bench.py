"""II-Bench: prompts as released, what is counted, and what its files may hold."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import ImagePart
from diptych.tasks.choice.ii_bench import IIBench

RELEASED = json.loads(Path(__file__).with_name("released_ii_bench.json").read_text(encoding="utf-8"))
"""Two questions, three made-up examples in the place of the published ones, and the SHA-256 of what the release's loader (1cf741d) makes
of them in each mode. With the published data all 1,434 prompts of each mode were equal as well."""


class Model:
    name = "model"

    def __init__(self, *says: str) -> None:
        self.says, self.asked = says, list[Any]()

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked, self.tokens = list(prompts), max_tokens
        return [self.says[row % len(self.says)] for row in range(len(prompts))]


def written(folder: Path, rows: Any, name: str = "dev.json") -> Path:
    """A file as in the release: the pictures lie from the folder above."""
    file = folder / "data" / name
    file.parent.mkdir(exist_ok=True)
    for row in rows:
        picture = folder / row["local_path"]
        picture.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(picture)
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def test_prompts_are_the_released_ones(tmp_path: Path, parity: Any) -> None:
    data, examples = written(tmp_path, RELEASED["data"], "test.json"), written(tmp_path, RELEASED["dev"])
    pairs = []
    for mode, released in RELEASED["prompts"].items():
        model, task = Model("A"), IIBench(mode=mode, examples=str(examples) if mode.endswith("shot") else "")
        task.predict(model, dp.read(data))
        assert model.tokens == (1000 if mode == "cot" else 32)
        for prompt, one in zip(model.asked, released, strict=True):
            text = prompt if isinstance(prompt, str) else prompt[-1].text
            pictures = 1 if isinstance(prompt, str) else sum(isinstance(part, ImagePart) for part in prompt)
            same = hashlib.sha256(text.encode()).hexdigest() == one["sha256"]
            pairs += [(float(same), 1.0), (len(text), one["characters"]), (pictures, one["pictures"])]
    parity("ii_bench", "the prompts of all eight modes", "data_loader of II-Bench 1cf741d", pairs, tolerance=0)


def test_examples_bring_their_pictures_in_order(tmp_path: Path) -> None:
    data, examples = written(tmp_path, RELEASED["data"], "test.json"), written(tmp_path, RELEASED["dev"])
    model = Model("A")
    IIBench(mode="2-shot", examples=str(examples)).predict(model, dp.read(data))
    sources = [part.source and Path(part.source.name).name for part in model.asked[0] if isinstance(part, ImagePart)]
    assert sources == ["dev-1.jpg", "dev-20.jpg", None]


def test_what_is_counted(tmp_path: Path) -> None:
    data = dp.read(written(tmp_path, RELEASED["data"]))
    task = IIBench(draws=20)
    replies = Model("The answer is (C) because (A) and (A) fail", "")
    result = task.score(task.predict(replies, data))
    assert result.value == 0.5
    assert result.metrics["unread"].value == 0.5
    assert result.metrics["accuracy/rhetoric=Irony"].value == 0.5
    assert result.notes["accuracy_by_extractor"]["ii_bench"] == 0
    assert result.notes["released"] == {"accuracy": 0.0, "errors": 0.0, "misses": 0.0}, "an empty reply is no miss there"
    assert task.score(task.predict(Model("!!!"), data)).notes["released"]["misses"] == 1
    compat = IIBench(compat="ii_bench", draws=20)
    assert compat.score(compat.predict(Model("three", "z"), data)).value == 1


def test_a_secret_split_is_asked_and_written_down(tmp_path: Path) -> None:
    rows = json.loads(json.dumps(RELEASED["data"]))
    for row in rows:
        del row["questions"][0]["answer"], row["questions"][0]["correct_option"]
    file = tmp_path / "submission.json"
    task = IIBench(order="shuffle", orders=1, submission=str(file), draws=20)
    result = task.score(task.predict(Model("(B)", "what?"), dp.read(written(tmp_path, rows, "test.json"))))
    assert math.isnan(result.value)
    first, second = json.loads(file.read_text())
    assert (first["id"], first["response"], second["predict_answer"]) == ("x-1", "(B)", None)
    assert first["predict_answer"] in "ABCDEF"


def test_the_command_reads_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path, RELEASED["data"])
    assert main(["eval", "nowhere", "ii_bench", "--data", str(data)]) != 0
    assert "nowhere" in capsys.readouterr().err
    data.write_text("[]")
    assert main(["eval", "nowhere", "ii_bench", "--data", str(data)]) != 0


def without_picture(rows: Any) -> None:
    rows[0]["local_path"] = "images/gone.jpg"


def key_outside(rows: Any) -> None:
    rows[0]["questions"][0]["answer"] = "G"


def right_one_doubled(rows: Any) -> None:
    rows[0]["questions"][0]["options"][0] = "three"


def five_options(rows: Any) -> None:
    rows[0]["questions"][0]["options"].pop()


def two_truths(rows: Any) -> None:
    rows[0]["questions"][0]["correct_option"] = "two"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_picture, r"row 0, field 'local_path': the picture 'images/gone.jpg' does not exist"),
        (key_outside, r"row 0, field 'answer': the answer is 'G' \(expected a letter from A to F"),
        (right_one_doubled, r"row 0, field 'options': the option 'three' is given twice"),
        (five_options, r"row 0, field 'options': are 5 \(expected 6 texts\)"),
        (two_truths, r"row 0, field 'correct_option': is 'two' \(expected option C\)"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, change: Any, said: str) -> None:
    rows = json.loads(json.dumps(RELEASED["data"]))
    file = written(tmp_path, rows)
    change(rows)
    file.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=said) as caught:
        dp.read(file)
    assert "dev.json" in str(caught.value)


def test_a_repeated_wrong_option_is_noted(tmp_path: Path) -> None:
    rows = json.loads(json.dumps(RELEASED["data"]))
    rows[0]["questions"][0]["options"][0] = "two"
    data = dp.read(written(tmp_path, rows))
    assert "1 questions repeat a wrong option" in data.notes
    task = IIBench(draws=20)
    assert task.score(task.predict(Model("C", "F"), data)).value == 1


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "zero"},
        {"mode": "1-shot"},
        {"examples": "dev.json"},
        {"shots": 2, "examples": "x"},
        {"how": "letter"},
        {"hint": "domain"},
    ],
)
def test_modes_that_cannot_work(options: Any) -> None:
    with pytest.raises(ConfigError, match="expected"):
        IIBench(**options)
