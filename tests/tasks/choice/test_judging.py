"""Judges of open answers, comparisons in both orders, agreement and strengths: against scikit-learn, closed forms and hand cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import TextPart
from diptych.tasks._scoring.answers.judge_agreement import agreement, bradley_terry, elo, kappa
from diptych.tasks._scoring.answers.judging import (
    JudgedAnswer,
    compare_answers,
    judge_answers,
    parse_preference,
    parse_rating,
    word_f1,
)

ASKED = [
    JudgedAnswer("what?", "a red bus", "the red bus."),
    JudgedAnswer("what?", "a red bus", "a bus"),
    JudgedAnswer("what?", "two", "2"),
    JudgedAnswer("q", "x", ""),
]


class Talker:
    """Replies by a function of the question's words."""

    name = "talker"

    def __init__(self, reply: Any) -> None:
        self.reply, self.asked = reply, 0

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked += len(prompts)
        assert list(images) == [None] * len(prompts), "no picture"
        assert all(isinstance(part, TextPart) for prompt in prompts for part in prompt), "words alone"
        return [self.reply(prompt[0].text) for prompt in prompts]


class Nats:
    """Yes costs 1 nat where answer and reference share a word, else 3; no costs 2."""

    name = "nats"

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> list[np.ndarray]:
        found = []
        assert list(images) == [None] * len(prompts), "no picture"
        for prompt, names in zip(prompts, candidates, strict=True):
            assert names == ["yes", "no"]
            lines = dict(line.split(": ", 1) for line in prompt[0].text.splitlines() if ": " in line)
            shared = set(lines["Reference"].split()) & set(lines.get("Answer", "").split())
            found.append(np.array([[1.0 if shared else 3.0, 2], [2.0, 2]]))
        return found


class Letters:
    """Texts as counts of letters, unit-norm."""

    name, fingerprint = "letters", "1"

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
        rows = np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz "] for text in texts], np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        raise AssertionError("words alone")


def test_each_judge_on_the_same_answers() -> None:
    assert [verdict.score for verdict in judge_answers("exact", ASKED)] == [1, 0, 1, 0]
    assert [verdict.score for verdict in judge_answers("soft", ASKED)] == pytest.approx([1, 2 / 3, 1, 0])
    cosine = float(np.dot(*Letters().embed_texts(["a red bus", "a bus"])))
    for threshold, right in ((cosine - 1e-4, 1.0), (cosine + 1e-4, 0.0)):
        assert judge_answers("embedding", ASKED, Letters(), threshold=threshold)[1].score == right
    yes, no = 1 / (1 + math.exp(1 - 2)), 1 / (1 + math.exp(3 - 2))
    assert [verdict.score for verdict in judge_answers("likelihood", ASKED, Nats())] == pytest.approx([yes, yes, no, no])
    ratings = judge_answers("model", ASKED, Talker(lambda text: "Rating: 10" if "Answer: 2\n" in text else "I cannot"))
    assert [verdict.score for verdict in ratings] == [None, None, 1.0, None]
    assert ratings[0].reply == "I cannot"


def test_a_judge_must_be_able_to() -> None:
    with pytest.raises(ConfigError, match="judged by model needs a judge that is a Generator, got letters"):
        judge_answers("model", ASKED, Letters())
    with pytest.raises(ConfigError, match="got nobody"):
        judge_answers("embedding", ASKED)
    with pytest.raises(ConfigError, match="judged by 'taste'"):
        judge_answers("taste", ASKED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "score"),
    [("Rating: 7", 0.7), ("rating - 3/10", 0.3), ("**Rating:** 10", 1.0), ("8", 0.8), ("8/10", 0.8), ("Rating: 2.5", 0.25),
     ("Rating: 11", None),      ("Rating: 3 ... Rating: 4", None),

     ("Rating: 3. So rating: 3", 0.3), ("two of the 3 are right", None), ("", None)],
)  # fmt: skip
def test_ratings(reply: str, score: float | None) -> None:
    assert parse_rating(reply) == score


def test_word_f1_by_hand() -> None:
    # shared "dog" and "runs" of 2 and 4 words
    assert word_f1("a dog runs", "the dog runs very fast") == pytest.approx(2 * 2 / (2 + 4))
    assert word_f1("dog dog", "dog") == pytest.approx(2 * 1 / 3)
    assert word_f1("", "dog") == 0
    assert word_f1("the", "a") == 1


def test_a_comparison_counts_where_both_orders_agree() -> None:
    asked = [JudgedAnswer("q", "blue", "blue"), JudgedAnswer("q", "red", "green"), JudgedAnswer("{answer}", "{x}", "same")]
    rivals = ["green", "red", "same"]
    fair = Talker(lambda text: "Better: " + ("A" if _shown(text, "A") == _shown(text, "Reference") else "B"))
    assert [one.better for one in compare_answers(fair, asked[:2], rivals[:2])] == ["first", "second"]
    first = compare_answers(Talker(lambda text: "Better: A"), asked, rivals)
    assert [(one.better, one.consistent, one.took_first) for one in first] == [("tie", False, 2)] * 3
    assert [one.better for one in compare_answers(Talker(lambda text: "hm"), asked, rivals)] == ["unread"] * 3
    tie = compare_answers(Talker(lambda text: "Better: tie"), asked, rivals)
    assert [(one.better, one.consistent, one.took_first) for one in tie] == [("tie", True, 0)] * 3
    long = Talker(lambda text: "Better: A" if len(_shown(text, "A")) > len(_shown(text, "B")) else "Better: B")
    assert [one.better for one in compare_answers(long, asked[:2], rivals[:2])] == ["second", "first"], (
        "a judge of length is consistent and wrong"
    )
    once = Talker(lambda text: "tie")
    compare_answers(once, [asked[2]] * 5, [rivals[2]] * 5)
    assert once.asked == 1, "equal questions are asked once; here both orders are equal, too"
    assert parse_preference("Better: B, not better: A") == "unread"


def _shown(text: str, name: str) -> str:
    starts = {"A": "Answer A: ", "B": "Answer B: ", "Reference": "Reference: "}
    return next(line.removeprefix(starts[name]) for line in text.splitlines() if line.startswith(starts[name]))


def test_kappa_is_that_of_scikit_learn(parity: Any) -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for classes in (2, 3, 5):
        for _ in range(20):
            first = rng.integers(0, classes, 50)
            second = np.where(rng.random(50) < 0.6, first, rng.integers(0, classes, 50))
            pairs.append((kappa(first.tolist(), second.tolist()), cohen_kappa_score(first, second)))
    parity("auto_bench", "Cohen's kappa of judges", "cohen_kappa_score of scikit-learn", pairs, tolerance=1e-12)
    assert kappa([1, 1], [1, 1]) == 1
    assert agreement("aab", "abb") == pytest.approx(2 / 3)
    assert kappa("aabb", "abab") == 0
    with pytest.raises(DataError, match="0 verdicts and 0"):
        kappa([], [])


def test_strengths_are_those_of_a_logistic_regression(parity: Any) -> None:
    # two models: the odds are the wins
    np.testing.assert_allclose(np.diff(bradley_terry(np.array([[0.0, 30.0], [10.0, 0.0]]))), -math.log(3), atol=1e-9)
    rng = np.random.default_rng(1)
    pairs = []
    for count in (3, 5):
        wins = rng.integers(1, 30, (count, count)).astype(float)
        np.fill_diagonal(wins, 0)
        rows, labels, weights = [], [], []
        for a in range(count):
            for b in range(count):
                if a != b:
                    row = np.zeros(count)
                    row[a], row[b] = 1, -1
                    for sign, label in ((1, 1), (-1, 0)):  # each win from both sides, so that there are two classes
                        rows.append(sign * row)
                        labels.append(label)
                        weights.append(wins[a, b])
        fitted = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-10, max_iter=10_000)
        strength = fitted.fit(np.array(rows), labels, weights).coef_[0]
        pairs.append((bradley_terry(wins), strength - strength.mean()))
    parity(
        "auto_bench", "strengths by Bradley and Terry", "LogisticRegression of scikit-learn, unpenalised", pairs, tolerance=1e-4
    )
    never = np.array([[0.0, 5.0], [0.0, 0.0]])
    with pytest.raises(DataError, match="never lost"):
        bradley_terry(never)
    np.testing.assert_allclose(np.diff(bradley_terry(never, prior=0.5)), -math.log(5.5 / 0.5), atol=1e-9)


def test_elo_by_hand() -> None:
    first = elo([(0, 1, 1.0)], 2)
    np.testing.assert_allclose(first, [1016, 984])
    expected = 1 / (1 + 10 ** ((984 - 1016) / 400))
    np.testing.assert_allclose(elo([(0, 1, 1.0), (0, 1, 0.5)], 2), [1016 + 32 * (0.5 - expected), 984 - 32 * (0.5 - expected)])
    assert elo([(0, 1, 1.0), (1, 0, 1.0)], 2).tolist() != elo([(1, 0, 1.0), (0, 1, 1.0)], 2).tolist()
