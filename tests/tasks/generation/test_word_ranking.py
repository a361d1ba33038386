"""Ranked words: NDCG against the definition, its chance level, what counts as a word; stems against NLTK's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import WordRanker
from diptych.core.errors import DataError
from diptych.data.text.captions.stop_words import STOP_WORDS, content_words
from diptych.tasks._scoring.captions.stemming import stem
from diptych.tasks.generation.word_ranking import WordRanking
from diptych.worlds.scenes.world import scenes

DATA = scenes(12, seed=0, lengths=("short",), negatives=False)
WORDS = ["circle", "circles", "red", "", "blue", "a", "left", "right", "above", "below", "bus", *map(str, range(60))]


class Ranked:
    """Ranks the vocabulary in an order that is given."""

    name, words = "ranked", WORDS

    def __init__(self, order: Any) -> None:
        self.order = order

    def rank_words(self, images: Any, *, batch_size: int = 64) -> Any:
        return np.stack([self.order(row) for row in range(len(images))])


def defined(ranked_V: Any, caption: str) -> float:
    """As the released retrieval_eval.py computes it."""
    targets = {stem(word) for word in content_words(caption)}
    relevant = np.array([stem(WORDS[token]) in targets for token in ranked_V])
    ideal = (1 / np.log2(np.arange(relevant.sum()) + 2)).sum()
    return float((relevant / np.log2(np.arange(len(WORDS)) + 2)).sum() / ideal)


def test_ndcg_is_that_of_the_definition(parity: Any) -> None:
    model = Ranked(lambda row: np.random.default_rng(row).permutation(len(WORDS)))
    assert isinstance(model, WordRanker)
    task = WordRanking(draws=20)
    records = task.predict(model, DATA)
    values = task.item_values(records, "ndcg")
    assert values is not None
    there = [
        row
        for row in range(12)
        if any(stem(word) in {stem(w) for w in content_words(DATA[row].texts[0].string)} for word in WORDS)
    ]
    captions = {row: " ".join(text.string for text in DATA[row].positives("en")) for row in there}
    wanted = [defined(model.order(row), captions[row]) for row in there]
    parity(
        "sitta",
        "NDCG of ranked words",
        "the definition in the released retrieval_eval.py, item by item",
        [(values[there, 0], np.array(wanted))],
        tolerance=1e-12,
    )
    result = task.score(records)
    assert result.metrics["ndcg"].value == pytest.approx(np.mean(wanted))
    assert result.notes["unranked"] == 12 - len(there)


@pytest.mark.parametrize(("rank", "hit"), [(1, 1.0), (3, 1.0), (4, 0.0)])
def test_a_hit_is_a_word_at_the_last_place_that_counts_too(rank: int, hit: float) -> None:
    truth = [{stem(word) for word in content_words(" ".join(t.string for t in DATA[row].positives("en")))} for row in range(12)]

    def order(row: int) -> Any:
        right = [token for token, word in enumerate(WORDS) if stem(word) in truth[row]]
        wrong = [token for token in range(len(WORDS)) if token not in right]
        return np.array([*wrong[: rank - 1], *right, *wrong[rank - 1 :]])

    task = WordRanking(first=3, draws=5)
    assert task.score(task.predict(Ranked(order), DATA)).metrics["hit@3"].value == hit


def test_the_best_order_scores_one_and_random_ones_chance() -> None:
    captions = [{stem(word) for word in content_words(DATA[row].texts[0].string)} for row in range(12)]
    best = Ranked(lambda row: np.argsort([stem(word) not in captions[row] for word in WORDS], kind="stable"))
    task = WordRanking(draws=5)
    result = task.score(task.predict(best, DATA))
    assert result.metrics["ndcg"].value == pytest.approx(1)
    assert result.metrics["hit@8"].value == 1
    rng = np.random.default_rng(0)
    found = [task.score(task.predict(Ranked(lambda row: rng.permutation(len(WORDS))), DATA)).metrics for _ in range(60)]
    means = {name: np.mean([metrics[name].value for metrics in found]) for name in ("ndcg", "chance")}
    assert means["ndcg"] == pytest.approx(means["chance"], rel=0.05)


def test_stems_are_those_of_nltk() -> None:
    wanted = json.loads((Path(__file__).parent / "nltk_stems.json").read_text(encoding="utf-8"))
    assert {word: stem(word) for word in wanted} == wanted


def test_stop_words_are_left_out_as_they_stand() -> None:
    assert len(STOP_WORDS) == 326
    assert content_words("The dog, the. cat The Dog") == ["Dog", "cat", "dog", "the"]


def test_data_without_known_words_say_so() -> None:
    task = WordRanking()
    model = Ranked(lambda row: np.arange(len(WORDS)))
    model.words = ["nothing"] * len(WORDS)  # type: ignore[misc]
    with pytest.raises(DataError, match="no image has a word of the vocabulary"):
        task.score(task.predict(model, DATA))
