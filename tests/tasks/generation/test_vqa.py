"""VQA: accuracy and normalisation as the release has them, and what the protocol counts beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.text.question_answering.questions import questions_of
from diptych.tasks._scoring.answers.answer_match import normalised, vqa_accuracy
from diptych.tasks.generation.vqa import VQA
from diptych.worlds.scenes.questions import make_questions, questions

RELEASED: dict[str, Any] = json.loads(Path(__file__).with_name("released_vqa.json").read_text())


def test_normalising_equals_the_release() -> None:
    assert [normalised(text) for text, _ in RELEASED["strings"]] == [wanted for _, wanted in RELEASED["strings"]]


def test_accuracy_equals_the_release() -> None:
    found = [vqa_accuracy(answer, people) for answer, people, _ in RELEASED["cases"]]
    np.testing.assert_allclose(found, [wanted for *_, wanted in RELEASED["cases"]], atol=1e-9)


@pytest.mark.parametrize(("matches", "share"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_shares_of_ten_people(matches: int, share: float) -> None:
    people = ["red"] * matches + [f"colour {n}" for n in range(10 - matches)]
    assert vqa_accuracy("red", people) == pytest.approx(share)


def test_all_agreeing_people_are_not_normalised_by_the_release() -> None:
    assert vqa_accuracy("The dog.", ["dog"] * 10) == 0
    assert vqa_accuracy("The dog.", ["dog"] * 10, always=True) == 1


def pool(*rows: list[dict[str, Any]]) -> Pool:
    pixels = np.zeros((8, 8, 3), np.uint8)
    return Pool.from_samples(
        Sample(uid=f"u{row}", image=ArrayImage(pixels, f"u{row}"), extras={"questions": known}) for row, known in enumerate(rows)
    )


class Answers:
    """Always the same words; as a ranker, it likes short answers."""

    name = "answers"

    def __init__(self, words: str) -> None:
        self.words = words

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.prompts = prompts
        return [self.words] * len(prompts)

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[Any]:
        return [np.array([[float(len(answer)), 1.0] for answer in answers]) for answers in candidates]


DATA = pool(
    [
        {"question": "is it red ?", "answer": "yes", "kind": "there"},
        {"question": "which ?", "answers": ["a dog", "cat"], "kind": "what"},
    ],
    [{"question": "is it blue ?", "answer": "no", "kind": "there"}],
)


def test_kinds_yes_share_and_chance() -> None:
    task, model = VQA(suffix="In a word.", blind=False, draws=50), Answers("Yes.")
    result = task.score(task.predict(model, DATA))
    assert model.prompts == ["is it red ? In a word.", "which ? In a word.", "is it blue ? In a word."]
    published = Answers("yes")
    VQA(prefix="Question:", suffix="Short Answer:", blind=False).predict(published, DATA)
    assert published.prompts[0] == "Question: is it red ? Short Answer:"
    assert result.value == pytest.approx(1 / 3)
    assert result.metrics["accuracy/there"].value == 0.5
    assert result.metrics["accuracy/there"].items == 2
    assert result.metrics["yes"].value == 1.0
    assert result.metrics["accuracy"].chance == pytest.approx(2 / 3)
    assert task.score(task.predict(Answers("dog"), DATA)).metrics["accuracy/what"].value == 1.0


def test_the_blind_row_is_what_grey_pictures_get() -> None:
    class Sees(Answers):
        def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
            return ["no" if image.pixels_HWC.any() else "yes" for image in images]

    found = VQA(draws=20).score(VQA().predict(Sees(""), DATA)).metrics
    assert found["accuracy/there"].value == 0.5
    assert (found["accuracy"].value, found["accuracy/blind"].value) == pytest.approx((1 / 3, 1 / 3))
    records = VQA(blind=False).predict(Sees(""), DATA)
    assert "accuracy/blind" not in VQA(draws=20).score(records).metrics
    chosen = VQA(how="sum").predict(Sees(""), DATA)
    assert chosen.column("blind_answer").to_pylist() == chosen.column("answer").to_pylist()


def test_choosing_asks_for_likelihoods_of_the_answers_of_the_kind() -> None:
    records = VQA(how="sum").predict(Answers(""), DATA)
    assert records.column("answer").to_pylist() == ["no", "cat", "no"]

    class Writes:
        name = "writes"

        def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
            return [""] * len(prompts)

    with pytest.raises(ConfigError, match="'writes' cannot answer by how=mean"):
        VQA(how="mean").predict(Writes(), DATA)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"question": "what ?"}, "has no answer"),
        ({"answer": "red"}, "expected"),
        ({"question": "what ?", "answers": ["", "a"]}, "has no answer"),
    ],
)
def test_a_bad_question_is_named(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"sample 'u0', question 0.*{said}"):
        questions_of(pool([entry])[0])
    with pytest.raises(DataError, match="has no question"):
        VQA().predict(Answers("x"), pool([]))


def test_answers_of_the_world_are_true() -> None:
    """Each answer again from the things of the scene, by counting."""
    data = questions(60, seed=3, max_objects=4)
    seen = set()
    for row in range(len(data)):
        sample = data[row]
        things = [(thing["colour"], thing["label"]) for thing in sample.extras["things"]]
        for question in questions_of(sample):
            words = question.text.split()
            seen.add(question.kind)
            if question.kind == "colour":
                assert [colour for colour, label in things if label == words[4]] == [question.answer]
            elif question.kind == "shape":
                assert [label for colour, label in things if colour == words[3]] == [question.answer]
            elif question.kind == "count":
                number = ["none", "one", "two", "three", "four"].index(question.answer)
                assert sum(colour == words[3] for colour, _ in things) == number
            else:
                assert any(label == words[3] for _, label in things) == (question.answer == "yes")
    assert seen == {"colour", "shape", "count", "there"}
    assert data.fingerprint != questions(60, seed=4, max_objects=4).fingerprint
    assert data[0].uid == data.uids[0]


def test_a_scene_of_twins_has_no_question_about_one_of_them() -> None:
    twins = [{"colour": "red", "label": "circle"}, {"colour": "red", "label": "circle"}]
    kinds = [entry["kind"] for entry in make_questions(twins, np.random.default_rng(0))]
    assert kinds == ["count", "there"]
