"""Words are left out as often, and as many, as asked."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.data.text.tokens.word_dropout import drop_words

TEXT = " ".join(f"w{n}" for n in range(100))


def test_half_of_the_texts_lose_two_fifths_of_their_words() -> None:
    rng = np.random.default_rng(0)
    kept = [len(drop_words(TEXT, rng).split()) for _ in range(2000)]
    assert set(kept) == {100, 60}
    assert abs(np.mean(np.array(kept) == 60) - 0.5) < 0.04


def test_with_replacement_fewer_words_go() -> None:
    rng = np.random.default_rng(0)
    kept = [len(drop_words(TEXT, rng, probability=1.0, replacement=True).split()) for _ in range(500)]
    assert abs(np.mean(kept) - 100 * 0.99**40) < 0.5


def test_order_stays_and_spaces_are_single() -> None:
    words = drop_words("a  b   c d", np.random.default_rng(1), probability=0.0)
    assert words == "a b c d"
    found = drop_words(TEXT, np.random.default_rng(2), probability=1.0).split()
    assert found == sorted(found, key=lambda word: int(word[1:]))
    with pytest.raises(ConfigError):
        drop_words("a", np.random.default_rng(0), share=2.0)
