"""Word search against BM25 by hand, lexical models against the dense product, and the vocabulary's file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.lexicon import BM25Encoder, TermVocabulary, heaviest, unit_weights, words_of

TERMS = [f"t{i}" for i in range(40)]


class Lexical:
    """Random sparse weights by name."""

    name, fingerprint = "lexical", "ff00"

    def lexicalise_images(self, images: Sequence[ImageSource]) -> list[dict[str, float]]:
        return [self.weights(image.name) for image in images]

    def lexicalise_texts(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [self.weights(text) for text in texts]

    @staticmethod
    def weights(key: str) -> dict[str, float]:
        rng = keyed_rng("lexical", key)
        chosen = rng.choice(len(TERMS), size=8, replace=False)
        return {TERMS[i]: float(w) for i, w in zip(chosen, rng.random(8) + 0.1, strict=True)}


def written(texts: Sequence[Sequence[str]]) -> Pool:
    return Pool.from_samples(
        [Sample(f"s{i}", None, tuple(Text(t, "en") for t in row), licence="MIT") for i, row in enumerate(texts)], name="written"
    )


def bm25(documents: Sequence[str], query: str, k1: float = 1.2, b: float = 0.75) -> list[float]:
    """As in the book, one document after the other."""
    split = [words_of(document) for document in documents]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        score = 0.0
        for word in words_of(query):
            n = sum(word in other for other in split)
            tf = Counter(words)[word]
            idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
            score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(words) / mean))
        scores.append(score)
    return scores


def test_words_score_as_bm25(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vocabulary = ["red", "blue", "bus", "tree", "dog", "left", "of", "a"]
    texts = [[" ".join(rng.choice(vocabulary, size=rng.integers(1, 12))), "a picture"] for _ in range(60)]
    documents = ["\n".join(row) for row in texts]
    with LexicalIndex.build(BM25Encoder(), written(texts), tmp_path / "index") as index:
        for query in ("red bus", "dog", "a tree left of a tree", "Red, RED bus!"):
            want = bm25(documents, query)
            hits = index.search_text(query, 60)
            assert {hit.uid for hit in hits} == {f"s{i}" for i, score in enumerate(want) if score > 0}
            for hit in hits:
                assert hit.score == pytest.approx(want[int(hit.uid[1:])], rel=1e-5)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert index.search_text("zebra", 5) == []
        assert index.search_text("?!", 5) == []
        with pytest.raises(ConfigError, match="reads texts only"):
            index.search_image(BytesImage(b"", "x"))
        with pytest.raises(ConfigError, match="does not search by vectors"):
            index.search_vectors(np.ones((1, 4), np.float32))


def test_one_item_a_text_and_new_words_later(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with LexicalIndex.build(BM25Encoder(), written([["a red bus", "ein roter Bus"], ["a dog"]]), folder, what="texts") as index:
        assert len(index) == 3
        assert [(h.uid, h.payload["text"]) for h in index.search_text("roter", 5)] == [("s0", "ein roter Bus")]
        index.add(Pool.from_samples([Sample("new", None, (Text("a zebra and a dog"),))]))
    with LexicalIndex.open(folder, BM25Encoder()) as index:
        assert [h.uid for h in index.search_text("zebra", 5)] == ["new"]
        assert {h.uid for h in index.search_text("dog", 5)} == {"s1", "new"}
        assert index.search_like("new", 5)[0].uid == "s1"
        assert index.info.dim == 0


@pytest.mark.parametrize("query_terms", [0, 3])
def test_a_lexical_model_is_searched_by_cosine(kit: Any, tmp_path: Path, query_terms: int) -> None:
    pool, model = kit.pool(0, 120), Lexical()
    with LexicalIndex.build(model, pool, tmp_path / "index", query_terms=query_terms) as index:
        for query in ("one", "two", "three"):
            asked = heaviest(unit_weights(model.weights(query), "q"), query_terms)
            dense = np.array([[unit_weights(model.weights(uid), uid).get(t, 0.0) for t in TERMS] for uid in pool.uids])
            want = dense @ np.array([asked.get(t, 0.0) for t in TERMS])
            hits = index.search_text(query, 120)
            assert len(hits) == (want > 0).sum()
            assert [h.score for h in hits] == pytest.approx(sorted(want[want > 0], reverse=True), abs=1e-6)
            assert hits[0].uid == pool.uids[int(want.argmax())]
        picture = index.search_image(BytesImage(b"", "u7"), 1)[0]
        assert picture.uid == "u7"
        assert picture.score == pytest.approx(1.0 if not query_terms else picture.score, abs=1e-6)
        alike = index.search_text("one", 10, distinct=0.3, where={"split": "train"})
        vectors = {h.uid: np.array([unit_weights(model.weights(h.uid), "").get(t, 0.0) for t in TERMS]) for h in alike}
        assert all(float(vectors[a] @ vectors[b]) <= 0.3 + 1e-6 for a in vectors for b in vectors if a != b)


def test_bad_weights_and_models_are_refused(kit: Any, tmp_path: Path) -> None:
    class Bad(Lexical):
        @staticmethod
        def weights(key: str) -> dict[str, float]:
            return {"a": -1.0}

    with pytest.raises(DataError, match=r"weight of 'a' in the image of u0 is -1\.0"):
        LexicalIndex.build(Bad(), kit.pool(0, 3), tmp_path / "index")
    with pytest.raises(ConfigError, match="needs a lexical model or 'words'"):
        LexicalIndex.build(kit.model(), kit.pool(0, 3), tmp_path / "index")
    with pytest.raises(ConfigError, match="query_terms is -1"):
        LexicalIndex.build(BM25Encoder(), kit.pool(0, 3), tmp_path / "index", query_terms=-1)
    with pytest.raises(ConfigError, match="b is 2"):
        BM25Encoder(b=2)


def test_a_line_that_a_kill_cut_is_forgotten(tmp_path: Path) -> None:
    words = TermVocabulary(tmp_path)
    words.learn(["red", "new\nline", "red"])
    with (tmp_path / "words.txt").open("ab") as file:
        file.write(b'"hal')
    again = TermVocabulary(tmp_path)
    assert again.terms() == ["red", "new\nline"]
    again.learn(["blue"])
    assert TermVocabulary(tmp_path).terms() == ["red", "new\nline", "blue"]
    assert again.encode({"blue": 2.0, "red": 1.0, "unknown": 9.0}).indices.tolist() == [0, 2]


def test_words() -> None:
    assert words_of("It's 3 Ｆoxes — naïve_cat") == ["it", "s", "3", "foxes", "naïve", "cat"]
    assert words_of("赤いバス") == ["赤", "い", "バ", "ス"]


def test_of_equal_weights_the_first_terms_stay() -> None:
    assert list(heaviest({"b": 1.0, "c": 2.0, "a": 1.0, "d": 0.5}, 2).items()) == [("c", 2.0), ("a", 1.0)]
    assert heaviest({"b": 1.0, "a": 1.0}, 0) == {"b": 1.0, "a": 1.0}


def test_texts_that_have_no_words_on_average_are_weighted_as_if_one_word_were_usual() -> None:
    """An index that began with texts of signs alone has a mean length of 0: nothing is divided by it."""
    assert BM25Encoder().documents(["!?", "a bus"], 0.0) == BM25Encoder().documents(["!?", "a bus"], 1.0)
    assert BM25Encoder().documents(["!?", "bus"], 0.0) == [{}, {"bus": 1.0}]
