"""Which text a step reads: three policies, keyed by the draw, and what cannot be drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import choose_text
from diptych.data.text.captions.variants import SIMILARITY, TextDraw

TEXTS = (Text("an old caption", "en", "alt"), *(Text(f"rewrite number {n}", "en", "rewrite") for n in range(4)))
SAMPLE = Sample("s", texts=TEXTS, extras={SIMILARITY: [0.3, 0.1, 0.2, 0.3, 0.25]})
DRAWS = 4000


def counts(draw: TextDraw, sample: Sample = SAMPLE, language: str = "en") -> np.ndarray:
    found = [draw(Draw(sample, keyed_rng(n)), language) for n in range(DRAWS)]
    return np.array([found.count(text) for text in sample.texts])


def test_uniform_draws_are_uniform_and_those_of_every_pair_recipe() -> None:
    draw = TextDraw()
    assert chisquare(counts(draw)).pvalue > 0.01
    for n in range(200):
        rng, other = keyed_rng(n), keyed_rng(n)
        assert draw(Draw(SAMPLE, rng), "en") == choose_text(Draw(SAMPLE, other), "en") == TEXTS[int(keyed_rng(n).integers(5))]
        assert rng.random() == other.random(), "and leave the generator at the same place"


def test_weights_are_those_of_origins() -> None:
    found = counts(TextDraw(text_policy="weighted", text_weights=("alt=4", "rewrite=0.5")))
    assert chisquare(found, np.array([4, 0.5, 0.5, 0.5, 0.5]) / 6 * DRAWS).pvalue > 0.01
    assert counts(TextDraw(text_policy="weighted", text_weights=("alt=0",)))[0] == 0


def test_similar_texts_are_drawn_more_often(parity: Any) -> None:
    draw = TextDraw(text_policy="similarity", text_temperature=0.1)
    raw = np.exp(np.array(SAMPLE.extras[SIMILARITY]) / 0.1)
    chance = draw.chances(Draw(SAMPLE, keyed_rng(0)), TEXTS)
    np.testing.assert_allclose(chance, raw / raw.sum(), rtol=1e-12)
    assert chisquare(counts(draw), raw / raw.sum() * DRAWS).pvalue > 0.01
    cold = TextDraw(text_policy="similarity", text_temperature=1e-4)
    assert set(np.flatnonzero(counts(cold))) == {0, 3}


def test_a_similarity_belongs_to_its_text_whatever_the_language() -> None:
    texts = (Text("hund", "de"), Text("dog", "en"), Text("wrong", "en", "negative"), Text("hound", "en"))
    sample = Sample("s", texts=texts, extras={SIMILARITY: [0.9, 0.0, 0.9, 1.0]})
    found = counts(TextDraw(text_policy="similarity", text_temperature=0.01), sample)
    assert found.tolist() == [0, 0, 0, DRAWS]


def test_a_text_of_one_word_gives_way_to_the_first() -> None:
    sample = Sample("s", texts=(Text("the caption"), Text("word", origin="rewrite"), Text("two words", origin="rewrite")))
    found = counts(TextDraw(least_words=2), sample)
    assert found[1] == 0
    assert chisquare(found[[0, 2]], [DRAWS * 2 / 3, DRAWS / 3]).pvalue > 0.01


@pytest.mark.parametrize("extras", [{}, {SIMILARITY: [0.1]}, {SIMILARITY: "high"}])
def test_without_similarities_it_says_what_makes_them(extras: dict[str, Any]) -> None:
    draw = TextDraw(text_policy="similarity")
    with pytest.raises(DataError, match=r"sample 's' has .* for its 5 texts.*--match MODEL"):
        draw(Draw(Sample("s", texts=TEXTS, extras=extras), keyed_rng(0)))


def test_refused() -> None:
    with pytest.raises(ConfigError, match="text_policy is 'best'"):
        TextDraw(text_policy="best")  # type: ignore[arg-type]
    for weights in ("rewrite", "rewrite=-1", "rewritten=1", "alt=nan", "alt=inf"):
        with pytest.raises(ConfigError, match="ORIGIN=WEIGHT"):
            TextDraw(text_policy="weighted", text_weights=(weights,))
    with pytest.raises(ConfigError, match="go with text_policy 'weighted'"):
        TextDraw(text_weights=("alt=1",))
    with pytest.raises(ConfigError, match="text_temperature is 0"):
        TextDraw(text_temperature=0)
    with pytest.raises(DataError, match="every text of sample 's' has weight 0"):
        TextDraw(text_policy="weighted", text_weights=("alt=0", "rewrite=0"))(Draw(SAMPLE, keyed_rng(0)))
    with pytest.raises(DataError, match="no text in language 'fr'"):
        TextDraw()(Draw(SAMPLE, keyed_rng(0)), "fr")
