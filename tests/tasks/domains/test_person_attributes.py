"""Attributes of persons by words: by hand, against scikit-learn, and what unknown places, ties and wrong columns do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.tasks.domains.person_attributes import PersonAttributes
from diptych.worlds.people.world import pedestrians


class Told:
    """Pictures by the attributes that it believes, texts by their words."""

    name = fingerprint = "told"

    def __init__(self, believed: dict[str, list[str]]) -> None:
        self.believed = believed

    def embed_images(self, images: Any, **_: Any) -> Any:
        return np.stack([self._vector([w for phrase in self.believed[i.name] for w in self._key(phrase)]) for i in images])

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        return np.stack(
            [self._vector(self._key(text.removeprefix("A photo of a ").removeprefix("person with "))) for text in texts]
        )

    def _key(self, phrase: str) -> list[str]:
        return [phrase]

    def _vector(self, words: list[str]) -> Any:
        made = np.full(4096, 1e-4, np.float32)
        for word in words:
            made[hash_of(word)] += 1
        return made / np.linalg.norm(made)


class Collapsed(Told):
    """Says the same of everything."""

    def embed_images(self, images: Any, **_: Any) -> Any:
        return np.eye(4, dtype=np.float32)[np.zeros(len(images), int)]

    embed_texts = embed_images


def hash_of(word: str) -> int:
    return sum((at + 1) * ord(letter) * 131 for at, letter in enumerate(word)) % 4096


def pool(count: int = 48) -> Pool:
    return pedestrians(count, occluded=0.3).to_pool()


def believed(rows: Pool, wrong: int = 0) -> dict[str, list[str]]:
    """The truth, but that every `wrong`-th picture is believed to be the picture before."""
    samples = list(rows)
    found = {}
    for n, sample in enumerate(samples):
        assert sample.image is not None
        other = samples[n - 1] if wrong and n % wrong == 0 else sample
        found[sample.image.name] = other.extras["attributes"]
    return found


def test_a_model_that_knows_gets_one_and_places_that_are_unknown_are_not_asked() -> None:
    rows = pool()
    task = PersonAttributes()
    records = task.predict(Told(believed(rows)), rows)
    result = task.score(records)
    assert result.metrics["ma"].value == 1.0
    assert result.metrics["accuracy"].value == 1.0
    known = sum(value != "unknown" for sample in rows for value in sample.extras["attributes"])
    assert result.n_items == known
    assert result.n_groups == 6


def test_mean_accuracy_is_that_of_every_phrase_against_the_rest(parity: Any) -> None:
    rows = pool()
    task = PersonAttributes()
    records = task.predict(Told(believed(rows, wrong=3)), rows)
    table = records.to_pydict()
    per_phrase = []
    for place in sorted({*table["place"]}):
        here = [n for n, p in enumerate(table["place"]) if p == place]
        for phrase in sorted({table["truth"][n] for n in here}):
            truth = [table["truth"][n] == phrase for n in here]
            said = [table["answer"][n] == phrase for n in here]
            per_phrase.append(balanced_accuracy_score(truth, said))
    result = task.score(records)
    pairs = [(result.metrics["ma"].value, np.mean(per_phrase))]
    parity("plip_person", "mean accuracy of attributes", "balanced_accuracy_score of scikit-learn", pairs, tolerance=1e-12)
    assert 0.6 < result.metrics["ma"].value < 1.0
    assert result.metrics["ma"].low < result.metrics["ma"].value < result.metrics["ma"].high


def test_ties_are_wrong() -> None:
    rows = pool(16)
    result = PersonAttributes().score(PersonAttributes().predict(Collapsed({}), rows))
    assert result.notes["share_tied"] == 1.0
    assert result.metrics["accuracy"].value == 0.0
    assert result.metrics["ma"].value == 0.5


def test_a_wrong_column_is_named() -> None:
    rows = Pool.from_samples([replace(s, extras={**s.extras, "attributes": ["man", "coat"]}) for s in pool(8)], name="bad")
    with pytest.raises(DataError, match=r"field 'attributes': sample '.*' has \['man', 'coat'\].*six phrases"):
        PersonAttributes().predict(Told(believed(rows)), rows)
