"""Options: how a reply is read, what rotations tell of a biased model, and planted models with known scores."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.text.questions import questions_of
from diptych.tasks._scoring.choices import entropy, option_of, rotations, shown
from diptych.tasks.generation.multiple_choice import MultipleChoice
from diptych.worlds.scene_questions import questions

OPTIONS = ["red", "dark red", "a ring", "two"]


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        ("B", 1), (" b ", 1), ("(C)", 2), ("C. a ring", 2), ("D) two", 3), ("B: dark red", 1), ("The answer is (B).", 1),
        ("Answer: C", 2), ("I think the answer is D", 3), ("It is dark red.", 1), ("red", 0), ("There are two of them", 3),
        ("E", None), ("A man", None), ("a ring or two", None), ("", None), ("The answer is A or the answer is B", None),
        ("answer is A's friend", None), ("tworing", None), ("Red", 0),
    ],
)  # fmt: skip
def test_which_option_a_reply_means(reply: str, place: int | None) -> None:
    assert option_of(reply, OPTIONS) == place


def test_rotations_and_their_entropy() -> None:
    assert rotations(["a", "b", "c"], 2) == [["a", "b", "c"], ["b", "c", "a"]]
    assert len(rotations(["a", "b"], 9)) == 2
    assert entropy(["a"] * 4, 4) == 0
    assert entropy(["a", "b", "c", "d"], 4) == pytest.approx(1)
    assert entropy(["a", "a", "b", "b"], 4) == pytest.approx(math.log(2) / math.log(4))
    assert entropy(["a"], 4) == 0


def pool(choices: bool = True) -> Pool:
    """The level of a picture says which option is right."""
    samples = []
    for row, right in enumerate(itertools.islice(itertools.cycle(OPTIONS), 16)):
        one: dict[str, Any] = {"question": "what is it ?", "answer": right, "kind": f"k{row % 2 if choices else 0}"}
        if choices:
            one["choices"] = OPTIONS
        pixels = np.full((8, 8, 3), OPTIONS.index(right), np.uint8)
        samples.append(Sample(f"u{row:02d}", ArrayImage(pixels, f"u{row}"), extras={"questions": [one]}))
    return Pool.from_samples(samples, name="four")


class Model:
    """Replies with the letter of what it sees, or as `says` has it; ranks likewise."""

    name = "model"

    def __init__(self, says: Any) -> None:
        self.says, self.asked = says, []

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked += prompts
        return [self.says(int(decode(image)[0, 0, 0]), prompt) for image, prompt in zip(images, prompts, strict=True)]

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[Any]:
        said = self.generate(images, prompts)
        return [np.array([[0.0 if c == one else 5.0, 1.0] for c in known]) for one, known in zip(said, candidates, strict=True)]


def letter_of(option: str, prompt: str) -> str:
    found = re.search(rf"^([A-Z])\. {re.escape(option)}$", prompt, re.MULTILINE)
    return found[1] if found else ""


def sees(level: int, prompt: str) -> str:
    return letter_of(OPTIONS[level], prompt) if level < 4 else "no idea"


@pytest.mark.parametrize("how", ["write", "letter"])
def test_one_that_sees_and_one_that_always_says_a(how: Any) -> None:
    task = MultipleChoice(how=how, draws=50)
    seeing = task.score(task.predict(Model(sees), pool())).metrics
    assert seeing["accuracy"].value == seeing["circular"].value == seeing["majority"].value == seeing["accuracy/k1"].value == 1
    assert seeing["entropy"].value == seeing["unread"].value == 0
    biased = task.score(task.predict(Model(lambda level, prompt: "A"), pool())).metrics
    assert biased["accuracy"].value == biased["rotated"].value == 0.25 == biased["accuracy"].chance
    assert biased["circular"].value == 0
    assert biased["circular"].chance == pytest.approx(4**-4)
    assert biased["entropy"].value == pytest.approx(1)
    if how == "write":
        assert seeing["accuracy/blind"].value == 0, "grey is nothing that it knows"


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_the_likeliest_text_is_asked_for_once_and_without_options(how: Any) -> None:
    task, model = MultipleChoice(how=how, blind=False, draws=20), Model(lambda level, prompt: OPTIONS[level])
    records = task.predict(model, pool())
    assert model.asked == ["what is it ?"] * 16
    assert task.score(records).value == 1
    assert task.item_values(records, "circular").mean() == 1  # type: ignore[union-attr]


def test_wrong_options_come_from_the_answers_of_the_kind() -> None:
    task = MultipleChoice(options=3, blind=False)
    first, again = (task._asked(pool(choices=False)) for _ in range(2))
    assert [options for *_, options in first] == [options for *_, options in again]
    for _, question, options in first:
        assert question.answer in options
        assert len(set(options)) == 3
        assert set(options) <= set(OPTIONS)
    assert {options.index(question.answer) for _, question, options in first} == {0, 1, 2}, "the right one stands anywhere"
    other = MultipleChoice(options=3, seed=1)._asked(pool(choices=False))
    assert [options for *_, options in other] != [options for *_, options in first]


def test_the_world_of_questions_can_be_asked_with_options() -> None:
    task = MultipleChoice(blind=False, draws=20)
    result = task.score(task.predict(Model(lambda level, prompt: "B."), questions(6)))
    assert result.metrics["accuracy/there"].chance == 0.5
    assert result.metrics["unread"].value == 0


def test_what_is_shown() -> None:
    assert shown("what ?", ["a", "b"], "Say it.") == "what ?\nA. a\nB. b\nSay it."
    with pytest.raises(DataError, match="27 options"):
        shown("what ?", ["x"] * 27, "")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"choices": "red"}, "two texts or more"),
        ({"choices": ["red"]}, "two texts or more"),
        ({"choices": ["red", "red"]}, "has a choice twice"),
        ({"choices": ["blue", "green"]}, "has not its answer 'red'"),
    ],
)
def test_bad_choices_name_sample_and_question(extra: dict[str, Any], said: str) -> None:
    sample = Sample("u", None, extras={"questions": [{"question": "what ?", "answer": "red", **extra}]})
    with pytest.raises(DataError, match=rf"sample 'u', question 0.*{said}"):
        questions_of(sample)


def test_bad_input_is_one_line() -> None:
    alone = Sample(
        "u", ArrayImage(np.zeros((8, 8, 3), np.uint8)), extras={"questions": [{"question": "what ?", "answer": "red"}]}
    )
    with pytest.raises(DataError, match="no wrong answer to offer"):
        MultipleChoice().predict(Model(sees), Pool.from_samples([alone]))
    with pytest.raises(DataError, match="has no question"):
        MultipleChoice().predict(Model(sees), Pool.from_samples([Sample("a", None)]))
    for options in ({"how": "x"}, {"options": 1}, {"orders": 0}):
        with pytest.raises(ConfigError, match="expected"):
            MultipleChoice(**options)  # type: ignore[arg-type]
