"""``diptych run`` for pipelines that ask a model that writes: options, files that go on, bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.data.media.decode import encode_png


class Writer:
    """Answers "B" to everything."""

    name, fingerprint = "writer", "1"

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return ["B"] * len(images)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("diptych.tasks.roles.open_address", lambda address: Writer())
    (tmp_path / "a.png").write_bytes(encode_png(np.full((40, 260, 3), 90, np.uint8)))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *argv: Any) -> Any:
    assert main(["run", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_i2l(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("i2l", "--model", "m", "--image", folder / "a.png", "--question", "Which?")
    found = said(capsys, *ask, "--demo", folder / "a.png", "--area", 0.25)
    assert (found["text"], found["how"], found["size"]) == ("B", "i2l", [130, 49])
    assert said(capsys, *ask, "--how", "text")["caption"] == "B"
    said(capsys, *ask, "--out", folder / "canvas.png")
    with Image.open(folder / "canvas.png") as canvas:
        assert canvas.size == (260, 59)
    assert main(["run", *map(str, ask), "--how", "text", "--out", str(folder / "no.png")]) == 2
    assert "--how text does not draw a canvas (expected --how i2l)" in capsys.readouterr().err
    (folder / "items.jsonl").write_text(
        json.dumps({"id": 1, "image": "a.png", "question": "q", "choices": ["x", "y"], "answer": "y"})
    )
    every = ("i2l", "--model", "m", "--items", folder / "items.jsonl", "--answers", folder / "out.jsonl")
    assert [said(capsys, *every)["new"] for _ in range(2)] == [1, 0]
    assert main(["run", "i2l", "--model", "m"]) == 2
    assert "no question is given (expected --image FILE and --question WORDS, or --items FILE)" in capsys.readouterr().err


def test_lifelong_memory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "log.csv").write_text("timestamp,caption\n30,C walks\n90,C sits\n")
    ask = ("lifelong_memory", "--reader", "m", "--no-digest", "--question", "What?", "--options", "a|b")
    found = said(capsys, *ask, "--captions", folder / "log.csv")
    assert (found["option"], found["outcome"], found["captions"]) == (None, "unread", 2)
    (folder / "frames").mkdir()
    (folder / "a.png").rename(folder / "frames/1.5.png")
    found = said(capsys, *ask, "--captioner", "m", "--frames", folder / "frames", "--caption-log", folder / "log.jsonl")
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[1]) == {"id": "1.5", "file": "1.5.png", "caption": "B"}
    assert main(["run", "lifelong_memory", "--reader", "m", "--question", "What?"]) == 2
    assert "expected --embedder MODEL, or --no-digest" in capsys.readouterr().err
