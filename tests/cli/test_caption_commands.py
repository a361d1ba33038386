"""`diptych caption` and `diptych ask`, and what they say to bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych.api.models as models
from diptych.cli import main


class Writes:
    name = "writes"

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64, **options: Any) -> list[str]:
        return [f"a {prompt or 'picture'}" for prompt in prompts]

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[Any]:
        return [np.array([[2.0 * len(answer), 2.0] for answer in answers]) for answers in candidates]


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("diptych.api.load", lambda *_, **__: Writes())
    monkeypatch.setattr(models, "load", lambda *_, **__: Writes())
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_captions_are_one_line_an_image_or_one_object(picture: Path, capsys: Any) -> None:
    assert main(["caption", "m", str(picture)]) == 0
    assert capsys.readouterr().out.strip() == f"{picture}: a picture"
    assert main(["caption", "m", str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["captions"] == [{"image": str(picture), "caption": "a picture"}]


def test_a_question_is_answered_freely_or_by_choices(picture: Path, capsys: Any) -> None:
    assert main(["ask", "m", str(picture), "red cup"]) == 0
    assert capsys.readouterr().out.strip() == "a red cup"
    assert main(["ask", "m", str(picture), "which ?", "--choices", "blue,red,green", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == "red"
    assert found["nats"] == {"blue": 4.0, "red": 3.0, "green": 5.0}


def test_an_empty_text_is_not_passed_over_in_silence(picture: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writes, "generate", lambda self, images, *_, **__: ["", " ", "a cup"][: len(images)])
    assert main(["caption", "m", *[str(picture)] * 3]) == 0
    assert "2 of 3 texts are empty: the model wrote no word" in capsys.readouterr().err
    assert main(["ask", "m", str(picture), "which ?"]) == 0
    assert "1 of 1 texts are empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ask", "m", "{picture}", "which ?", "--choices", "red,red"], "twice"),
        (["ask", "m", "{picture}", "which ?", "--choices", "red"], "two or more"),
        (["ask", "m", "{picture}", ""], "question is empty"),
        (["ask", "m", "{folder}", "which ?"], "is a folder"),
        (["caption", "m", "{folder}/b.png"], "does not exist"),
        (["caption", "m", "{picture}", "--max-tokens", "0"], "expected 1 or more"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, picture: Path, capsys: Any) -> None:
    given = [word.format(picture=picture, folder=picture.parent) for word in words]
    assert main(given) != 0
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
