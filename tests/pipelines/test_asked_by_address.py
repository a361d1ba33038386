"""Pipelines and a judge asked of models behind an address: canvases travel as pictures, words alone, killed runs ask what is missing."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.core.errors import RunError
from diptych.core.image import FileImage
from diptych.data.canvas.compose import Lettering
from diptych.data.canvas.reading import read_lines
from diptych.data.media.decode import encode_png
from diptych.pipelines.i2l import InImageLearning

from ..text_server import Server, said, server

__all__ = ["server"]


def pictures(body: Any) -> list[Image.Image]:
    parts = [part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


@pytest.fixture(autouse=True)
def own_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))


def test_a_canvas_arrives_as_it_was_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.full((40, 260, 3), (200, 10, 10), np.uint8)))
    server.behave = lambda number, body: said("red", chat=True)
    pipeline = InImageLearning(dp.load(f"openai:{server.address}#eyes"))
    image = FileImage(tmp_path / "a.png")
    assert pipeline.answer(image, "Which colour?").text == "red"
    ((canvas,),) = (pictures(body) for body in server.asked)
    np.testing.assert_array_equal(np.asarray(canvas), pipeline.canvas(image, "Which colour?"))
    assert [text for _, text in read_lines(np.asarray(canvas), Lettering())] == ["Which colour?"]


def test_captions_reach_a_model_of_words(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.full((40, 260, 3), (200, 10, 10), np.uint8)))
    server.behave = lambda number, body: said("a red field" if body["model"] == "eyes" else "red", chat=True)
    models = [dp.load(f"openai:{server.address}#{name}") for name in ("words?pictures=off", "eyes")]
    reply = InImageLearning(models[0], captioner=models[1], how="text").answer(FileImage(tmp_path / "a.png"), "Which colour?")
    assert (reply.text, reply.caption) == ("red", "a red field")
    assert [len(pictures(body)) for body in server.asked] == [1, 0]


def test_a_long_video_is_read_in_words(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("timestamp", "caption"), (30, "C walks"), (90, "C sits")])
    server.behave = lambda number, body: said(
        "query_index\tpredictions\texplanation\tconfidence\n1\t[60, 120]\tsits\t3", chat=True
    )
    words = ["run", "lifelong_memory", "--reader", f"openai:{server.address}#words?pictures=off", "--no-digest", "--json"]
    assert main([*words, "--captions", str(tmp_path / "log.csv"), "--question", "When do I sit?"]) == 0
    assert json.loads(capsys.readouterr().out)["windows"] == [[2.0, 4.0]]
    (body,) = server.asked
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "90  C sits" in body["messages"][1]["content"]


def test_judged_answers_go_on(server: Server, tmp_path: Path) -> None:
    address = f"openai:{server.address}#model?patience=0&calls=1"
    judge = f"openai:{server.address}#judge?pictures=off&patience=0&calls=1"
    options: dict[str, Any] = {"form": "open", "by": "model", "blind": False, "draws": 20, "split": "test"}

    def answer(number: int, body: Any) -> Any:
        if body["model"] == "model":
            return said("yes", chat=True)
        judgements = sum(asked["model"] == "judge" for asked in server.asked)
        return said("Rating: 10", chat=True) if judgements <= limit else (503, {}, b"away")

    server.behave = answer
    limit = 5
    with pytest.raises(RunError, match="What was answered is kept"):
        dp.evaluate(address, "auto_bench", "world:scenes?n=12&max_objects=2", judge=judge, **options)
    asked, limit = len(server.asked), 10**6
    result = dp.evaluate(address, "auto_bench", "world:scenes?n=12&max_objects=2", judge=judge, **options)
    assert result.metrics["accuracy"].value == 1.0
    judged = [json.dumps(body["messages"]) for body in server.asked if body["model"] == "judge"]
    assert len(server.asked) - asked < asked, "what was answered is not asked again"
    assert len(set(judged)) >= len(judged) - 1, "but for the one that was refused"
