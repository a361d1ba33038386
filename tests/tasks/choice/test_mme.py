"""MME: points by category against a naive count in the released order, and the two readers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.text.question_answering.questions import FIELD
from diptych.tasks.choice.mme import MME

PICTURE = ArrayImage(np.full((4, 4, 3), 90, np.uint8), "plain")
CATEGORIES = ("existence", "OCR", "code_reasoning")


class Scripted:
    name = "scripted"

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return [self.answers[row % len(self.answers)] for row in range(len(prompts))]


def pictures(count: int) -> Pool:
    """Two questions each, right by yes and by no."""
    asked = [
        [{"question": f"Is it {n}? {answer}", "answer": answer, "kind": CATEGORIES[n % 3]} for answer in ("Yes", "No")]
        for n in range(count)
    ]
    return Pool.from_samples([Sample(f"s{n}", PICTURE, extras={FIELD: some}) for n, some in enumerate(asked)], name="asked")


def test_points_are_accuracy_plus_that_of_whole_pictures() -> None:
    rng = np.random.default_rng(0)
    answers = [str(one) for one in rng.choice(["Yes", "yes, it is", "No.", "no", "The answer is no", "Nope"], 120)]
    metrics = dp.evaluate(Scripted(answers), MME(draws=20), pictures(60)).metrics
    points = {}
    for place, category in enumerate(CATEGORIES):
        right = both = lines = 0
        for picture in range(place, 60, 3):
            own = 0
            for label, answer in zip(("yes", "no"), answers[2 * picture : 2 * picture + 2], strict=True):
                begun = answer.lower()[:4]
                own += label == ("yes" if "yes" in begun else "no" if "no" in begun else "other")
            right, both, lines = right + own, both + (own == 2), lines + 2
        points[category] = right / lines * 100 + both / (lines // 2) * 100
        assert metrics[f"score/{category}"].value == pytest.approx(points[category])
    assert metrics["total"].value == pytest.approx(sum(points.values()))
    assert metrics["perception"].value == pytest.approx(points["existence"] + points["OCR"])
    assert metrics["cognition"].value == pytest.approx(points["code_reasoning"])
    assert metrics["total"].low < metrics["total"].value < metrics["total"].high
    assert metrics["unread"].value == answers.count("The answer is no") / 120


def test_always_yes_has_a_quarter_of_the_points_and_readers_differ() -> None:
    metrics = dp.evaluate(Scripted(["Yes"]), MME(draws=20), pictures(6)).metrics
    assert (metrics["total"].value, metrics["accuracy"].value, metrics["accuracy_plus"].value) == (150, 0.5, 0)
    late = ["It is so: yes!", "I would say no"]
    assert dp.evaluate(Scripted(late), MME(draws=20), pictures(6)).metrics["accuracy"].value == 0
    assert dp.evaluate(Scripted(late), MME(draws=20, reader="single"), pictures(6)).metrics["accuracy"].value == 1
    task = MME(draws=20)
    records = task.predict(Scripted(["yes", "no"]), pictures(3))
    plus = task.item_values(records, "accuracy_plus")
    assert plus is not None
    np.testing.assert_array_equal(plus[:, 0], [1, np.nan] * 3)
    assert task.in_words(records)[1].answer == "no"


def test_bad_options_and_answers_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"single \| whole \| prefix"):
        MME(reader="loose")  # type: ignore[arg-type]
    odd = Pool.from_samples([Sample("a", PICTURE, extras={FIELD: [{"question": "What?", "answer": "a dog"}]})], name="odd")
    with pytest.raises(DataError, match=r"'a' has the answer 'a dog' \(expected yes \| no"):
        MME().predict(Scripted(["yes"]), odd)
    with pytest.raises(DataError, match="has no question"):
        MME().predict(Scripted(["yes"]), Pool.from_samples([Sample("a", PICTURE)], name="bare"))
