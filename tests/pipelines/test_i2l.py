"""In-Image Learning: what the model gets in each way of asking, the hybrid's choice, and a file of questions that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import Generator, Pipeline
from diptych.core.errors import ConfigError, DataError, RunError
from diptych.core.image import FileImage
from diptych.core.prompt import ImagePart, TextPart, as_prompt
from diptych.data.canvas.compose import Lettering, stacked, with_text
from diptych.data.canvas.reading import read_lines
from diptych.data.media.decode import decode, encode_png
from diptych.pipelines.i2l import I2LReplies, I2LReply, ImageQuestion, InImageLearning, parse_rating


class Recorder:
    """Says what it is told to, in turn, and keeps what it was given."""

    name, fingerprint = "recorder", "1"

    def __init__(self, *replies: str, fails_after: int = 10**6) -> None:
        self.replies, self.asked, self.fails_after = list(replies) or ["B"], [], fails_after

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            if len(self.asked) >= self.fails_after:
                raise KeyboardInterrupt
            self.asked.append((image, as_prompt(prompt), max_tokens))
            found.append(self.replies[min(len(self.asked), len(self.replies)) - 1])
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in (("test", (40, 260)), ("demo", (30, 250)), ("other", (30, 250))):
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        (tmp_path / f"{name}.png").write_bytes(encode_png(pixels))
    rows = [
        {"image": "demo.png", "question": "Which?", "answer": "red", "rationale": "As framed.", "caption": "a demo"},
        {"image": "other.png", "question": "Where?", "answer": "left", "caption": "another", "category": "places"},
    ]
    (tmp_path / "demonstrations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_the_model_gets_one_picture_and_no_words(folder: Path) -> None:
    model, image = Recorder("blue"), FileImage(folder / "test.png")
    pipeline = InImageLearning(model, demos=folder)
    assert isinstance(pipeline, Pipeline)
    assert isinstance(pipeline, Generator)
    reply = pipeline.run(ImageQuestion(image, "What is it?"))
    ((canvas, prompt, tokens),) = model.asked
    assert (prompt, tokens) == ((ImagePart(),), 1024)
    shown = with_text(decode(FileImage(folder / "demo.png"), exact=True), "Which?\nAs framed.\nAnswer: red").pixels_HWC
    asked = with_text(decode(image, exact=True), "What is it?").pixels_HWC
    np.testing.assert_array_equal(canvas.pixels_HWC, stacked([shown, asked]))
    assert [text for _, text in read_lines(canvas.pixels_HWC, Lettering())] == [
        "Which?",
        "As framed.",
        "Answer: red",
        "What is it?",
    ]
    assert reply == I2LReply("blue", "i2l", size=canvas.pixels_HWC.shape[1::-1])
    pipeline.run(ImageQuestion(image, "What is it?", category="places"))
    assert [text for _, text in read_lines(model.asked[1][0].pixels_HWC, Lettering())] == [
        "Where?",
        "Answer: left",
        "What is it?",
    ]
    InImageLearning(model).run(ImageQuestion(image, "What is it?", demo=FileImage(folder / "demo.png")))
    given = stacked([decode(FileImage(folder / "demo.png"), exact=True), asked])
    np.testing.assert_array_equal(model.asked[2][0].pixels_HWC, given)
    InImageLearning(model).run(ImageQuestion(image, "What is it?"))
    np.testing.assert_array_equal(model.asked[3][0].pixels_HWC, asked)


def test_interleaved_and_captions_instead(folder: Path) -> None:
    model, image = Recorder("a test", "blue"), FileImage(folder / "test.png")
    InImageLearning(model, how="interleaved", demos=folder).run(ImageQuestion(image, "What?"))
    demo = ImagePart(source=FileImage(folder / "demo.png"))
    assert model.asked.pop()[1] == (demo, TextPart("Which?\nAs framed. red"), ImagePart(), TextPart("What?"))
    reply = InImageLearning(model, how="text", demos=folder).run(ImageQuestion(image, "What?"))
    (first, captioned, _), (second, prompt, _) = model.asked
    assert captioned[0] == demo
    assert captioned[1:] == (
        TextPart("Generate detailed caption for the image.\nCaption: a demo"),
        ImagePart(),
        TextPart("Generate detailed caption for the image.\nCaption: "),
    )
    assert first is image
    assert prompt == (
        TextPart(
            "Answer the question according to the description.\nDescription: a demo\nWhich?\nAnswer: As framed. red\n\n"
            "Answer the question according to the description.\nDescription: a test\nWhat?\nAnswer: "
        ),
    )
    assert len(np.unique(second.pixels_HWC)) == 1, "who reads words alone sees no picture"
    assert (reply.text, reply.caption) == ("blue", "a test")


@pytest.mark.parametrize(("said", "how"), [("4", "i2l"), ("It is a 3.", "i2l"), ("2", "interleaved"), ("easy", "i2l")])
def test_hybrid(folder: Path, said: str, how: str) -> None:
    model = Recorder(said, "blue")
    reply = InImageLearning(model, how="hybrid").run(ImageQuestion(FileImage(folder / "test.png"), "What?"))
    assert isinstance(reply, I2LReply)
    assert (reply.how, reply.rating, reply.text) == (how, parse_rating(said) or 0, "blue")


def test_it_asks_again_while_nothing_is_said(folder: Path) -> None:
    model = Recorder("", "", "blue")
    asked = ImageQuestion(FileImage(folder / "test.png"), "What?")
    assert InImageLearning(model).run(asked).tries == 3  # type: ignore[union-attr]
    assert InImageLearning(Recorder(""), tries=2).run(asked) == I2LReply("", "i2l", size=(260, 59), tries=2)


def test_a_killed_run_goes_on_with_what_is_missing(folder: Path) -> None:
    rows = [
        {"id": name, "image": "test.png", "question": f"{name}?", "choices": ["red", "blue"], "answer": "blue"} for name in "wxyz"
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ImageQuestion(items=folder / "items.jsonl", answers=folder / "out.jsonl")
    with pytest.raises(KeyboardInterrupt):
        InImageLearning(Recorder("B", fails_after=2)).run(asked)
    rest = Recorder("(A)")
    found = InImageLearning(rest).run(asked)
    assert isinstance(found, I2LReplies)
    assert (found.new, len(rest.asked)) == (2, 2)
    assert [row["right"] for row in found.rows] == [True, True, False, False]
    assert found.lines() == [
        f"4 answers in {folder / 'out.jsonl'}, 2 of them new",
        "2 of 4 right, 0 without an answer that can be read",
    ]
    lines = [text for _, text in read_lines(rest.asked[0][0].pixels_HWC, Lettering())]
    assert lines == ["y?", "Choices:", "(A) red", "(B) blue"]
    with pytest.raises(RunError, match=r"holds answers for area 1\.0, this run has 0\.5"):
        InImageLearning(rest, area=0.5).run(asked)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "none.png"}, "items.jsonl, row 2, field 'image': there is no picture none.png"),
        ({"choices": ["a", "a"]}, "row 2, field 'choices': hold 'a' twice"),
        ({"choices": ["a", "b"], "answer": "c"}, r"row 2, field 'answer': 'c' is not one of the choices \(expected a \| b\)"),
        ({"id": "1"}, "row 2, field 'id': '1' is given twice"),
        ({"answr": "c"}, "row 2, field 'answr': unknown field"),
    ],
)
def test_bad_items(folder: Path, change: dict[str, Any], said: str) -> None:
    row = {"id": "1", "image": "test.png", "question": "q"}
    (folder / "items.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "2"} | change))
    with pytest.raises(DataError, match=said):
        InImageLearning(Recorder()).run(ImageQuestion(items=folder / "items.jsonl"))


def test_refusals(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no question is given"):
        InImageLearning(Recorder()).run(ImageQuestion())
    with pytest.raises(ConfigError, match="how is 'pixels'"):
        InImageLearning(Recorder(), how="pixels")  # type: ignore[arg-type]
    (folder / "demonstrations.jsonl").write_text(json.dumps({"canvas": "demo.png"}))
    with pytest.raises(DataError, match="is a canvas alone"):
        InImageLearning(Recorder(), how="interleaved", demos=folder).run(ImageQuestion(FileImage(folder / "test.png"), "q"))
    with pytest.raises(DataError, match="has no picture with a caption"):
        InImageLearning(Recorder(), how="text", demos=folder).run(ImageQuestion(FileImage(folder / "test.png"), "q"))
