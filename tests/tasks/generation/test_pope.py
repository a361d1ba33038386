"""POPE: questions and scores of the released code, four ways to read an answer, and models whose score is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.tasks._scoring.answers.polling import SETTINGS, poll_questions
from diptych.tasks._scoring.answers.yes_no import READERS, confusion, parse_yes_no, scores
from diptych.tasks.generation.pope import POPE

RELEASED: dict[str, Any] = json.loads(Path(__file__).with_name("released_pope.json").read_text())


@pytest.mark.parametrize("setting", ["popular", "adversarial"])
def test_the_questions_are_those_of_the_released_generator(setting: Any) -> None:
    found = poll_questions(RELEASED["objects"], setting)
    assert [list(pair) for asked in found for pair in asked] == RELEASED[setting]


def test_objects_at_random_are_absent_and_asked_once() -> None:
    found = poll_questions(RELEASED["objects"], "random", seed=3)
    for there, asked in zip(RELEASED["objects"], found, strict=True):
        assert [name for name, yes in asked if yes] == there[:3]
        absent = [name for name, yes in asked if not yes]
        assert not set(absent) & set(there)
        assert len(set(absent)) == 3
    assert found == poll_questions(RELEASED["objects"], "random", seed=3)
    assert found != poll_questions(RELEASED["objects"], "random", seed=4)


def test_pairs_end_where_no_absent_object_is_left() -> None:
    assert poll_questions([["a", "b", "c"], ["a", "d"]], "popular") == [
        [("a", True), ("d", False)],
        [("a", True), ("b", False), ("d", True), ("c", False)],
    ]


def test_scores_are_those_of_the_released_code() -> None:
    said = [parse_yes_no(answer, "released") for answer in RELEASED["answers"]]
    found = scores(confusion(np.array(RELEASED["labels"]), said, "released").mean(0))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(RELEASED["scores"], abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Yes", (True, True, True, True, True, True)),
        ("Yes.", (True, True, True, None, True, True)),
        ("no", (False, False, False, False, False, False)),
        ("No, there is no dog.", (False, False, False, None, False, False)),
        ("There is not.", (None, False, None, None, None, False)),
        ("yes. no", (True, True, None, None, True, None)),
        ("", (None, True, None, None, None, None)),
        ("A notable dog", (None, True, None, None, False, False)),
        ("It is yes", (True, True, True, None, None, True)),
    ],
)
def test_ways_to_read_an_answer(answer: str, wanted: tuple[bool | None, ...]) -> None:
    assert tuple(parse_yes_no(answer, reader) for reader in READERS) == wanted


PRINTED = [0.42857142857142855, 0.3333333333333333, 0.3333333333333333, 0.3333333333333333, 0.42857142857142855]
VCD = [
    *[("It is not on the left.", False), ("Yes", False), ("Yes, the cat is on it.", False), ("It is not on the left.", False)],
    *[("", False), ("Now I see it", True), ("Yes, the cat is on it.", True), ("Perhaps", True), ("no", False), ("Perhaps", True)],
    *[
        ("yes, or no", False),
        ("yes, or no", True),
        ("Yes, the cat is on it.", False),
        ("", False),
        ("Yes", True),
        ("Nothing here", True),
    ],
    *[("no", True), ("Now I see it", False), ("", True), ("I know that it is so.", False), ("Yes", False)],
]


def test_contained_is_read_as_vcd_reads(parity: Any) -> None:
    """Accuracy, precision, recall, F1 and share of yes that `eval_pope.py` of VCD at 039af55 printed for these answers."""
    truths, verdicts = [there for _, there in VCD], [parse_yes_no(answer, "contained", truth=there) for answer, there in VCD]
    found = scores(confusion(np.array(truths), verdicts, "contained").mean(0))
    pairs = [([float(found[name]) for name in ("accuracy", "precision", "recall", "f1", "yes")], PRINTED)]
    parity("mmrel", "scores of answers that contain a word", "eval_pope.py of VCD 039af55", pairs, tolerance=1e-12)


def test_single_is_read_as_vlmevalkit_reads(parity: Any) -> None:
    """300 made-up replies, and what the `YOrN_Extraction` of VLMEvalKit 0c7163c makes of them."""
    rows = json.loads(Path(__file__).with_name("vlmevalkit_answers.json").read_text(encoding="utf-8"))
    code = {True: 1.0, False: 0.0, None: -1.0}
    assert len({answer for _, answer in rows}) == 3
    pairs = [([code[parse_yes_no(text, "single")] for text, _ in rows], [code[answer] for _, answer in rows])]
    parity("mmrel", "300 replies read by VLMEvalKit's rule", "YOrN_Extraction of VLMEvalKit 0c7163c", pairs, tolerance=0)


def test_unread_answers_are_wrong_and_leave_the_recall_only_by_its_reader() -> None:
    truth, said = np.array([True, True, False, False]), [True, None, None, False]
    ours = scores(confusion(truth, said, "first").mean(0))
    assert (ours["accuracy"], ours["recall"], ours["precision"], ours["yes"]) == (0.5, 0.5, 1.0, 0.25)
    assert scores(confusion(truth, said, "whole").mean(0))["recall"] == 1.0


def pool(count: int = 12) -> Pool:
    """The level of a picture says which two of five objects it has."""
    names = ("apple", "bus", "cat", "dog", "umbrella")
    samples = []
    for row in range(count):
        pixels = np.full((8, 8, 3), row, np.uint8)
        regions = tuple(Region((0, 0, 4, 4), names[(row + step) % 5]) for step in (0, 1, 0))
        samples.append(Sample(f"u{row}", ArrayImage(pixels, f"u{row}"), regions=regions))
    return Pool.from_samples(samples, name="five")


class Model:
    """Answers by what `knows` says of a picture's level and the object asked about."""

    name = "model"

    def __init__(self, knows: Any) -> None:
        self.knows, self.asked = knows, []

    def _yes(self, image: Any, prompt: str) -> bool:
        self.asked.append(prompt)
        return bool(self.knows(int(decode(image)[0, 0, 0]), prompt))

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return ["Yes, it is." if self._yes(image, prompt) else "No." for image, prompt in zip(images, prompts, strict=True)]

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[Any]:
        yes = [self._yes(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        return [np.array([[1.0, 2.0], [2.0, 2.0]] if one else [[2.0, 2.0], [1.0, 2.0]]) for one in yes]


def test_nats_a_token_and_in_all_may_disagree() -> None:
    """ "yes" has two tokens of 1 nat, "no" one of 1.5."""

    class TwoTokens(Model):
        def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[Any]:
            return [np.array([[2.0, 2.0], [1.5, 1.0]]) for _ in images]

    for how, answer in (("mean", "yes"), ("sum", "no")):
        records = POPE(how=how).predict(TwoTokens(sees), pool())  # type: ignore[arg-type]
        assert set(records.column("answer").to_pylist()) == {answer}


def sees(level: int, prompt: str) -> bool:
    names = ("apple", "bus", "cat", "dog", "umbrella")
    return level != 128 and any(f" {names[(level + step) % 5]} " in prompt for step in (0, 1))


@pytest.mark.parametrize("how", ["write", "mean", "sum"])
def test_one_that_sees_and_one_that_always_agrees(how: Any) -> None:
    task = POPE(how=how, draws=50)
    seeing = task.score(task.predict(Model(sees), pool()))
    assert seeing.value == 1.0
    assert seeing.metrics["yes"].value == 0.5
    assert seeing.metrics["f1/blind"].value == 0.0, "grey is nothing that it knows"
    agreeing = task.score(task.predict(Model(lambda level, prompt: True), pool()))
    for setting in SETTINGS:
        assert agreeing.metrics[f"f1/{setting}"].value == pytest.approx(2 / 3)
        assert agreeing.metrics[f"recall/{setting}"].value == agreeing.metrics[f"yes/{setting}"].value == 1.0
    assert agreeing.metrics["f1/blind"].value == agreeing.metrics["f1"].chance == pytest.approx(2 / 3)
    assert agreeing.metrics["accuracy"].low <= 0.5 <= agreeing.metrics["accuracy"].high


def test_questions_have_the_right_article_and_the_suffix() -> None:
    model, task = Model(sees), POPE(suffix="Answer yes or no.", blind=False)
    records = task.predict(model, pool())
    assert "Is there an umbrella in the image? Answer yes or no." in model.asked
    assert "Is there a bus in the image? Answer yes or no." in model.asked
    assert len(model.asked) == len(records) == 12 * 3 * 4
    assert not any(name.endswith("/blind") for name in task.score(records).metrics)
    assert task.item_values(records, "accuracy").mean() == 1.0  # type: ignore[union-attr]


def test_kept_records_are_read_as_they_were_asked() -> None:
    strict = POPE(reader="whole", blind=False, draws=20)
    records = strict.predict(Model(sees), pool())
    assert POPE(draws=20).score(records).metrics["unread"].value == 1.0


def test_bad_input_is_one_line() -> None:
    with pytest.raises(DataError, match="has no labelled objects to ask about"):
        POPE().predict(Model(sees), Pool.from_samples([Sample("a", ArrayImage(np.zeros((8, 8, 3), np.uint8)))]))
    for options in ({"template": "what?"}, {"reader": "x"}, {"how": "x"}, {"count": 0}):
        with pytest.raises(ConfigError, match="expected"):
            POPE(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cannot answer by how=mean"):
        POPE(how="mean").predict(object(), pool())
