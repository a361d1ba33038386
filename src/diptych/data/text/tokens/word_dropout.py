"""Word dropout in captions."""

from __future__ import annotations

import numpy as np

from diptych.core.errors import ConfigError


def drop_words(
    text: str, rng: np.random.Generator, *, share: float = 0.4, probability: float = 0.5, replacement: bool = False
) -> str:
    """The text, or with that probability the text without `share` of its words (rounded to whole words, halves to even numbers).

    `replacement` draws the places with replacement, so that some are drawn twice and fewer words go: 33 of 100 for a share of 0.4, as in
    KEEP's released code (2024). Words are what spaces separate; the answer has single spaces between them.

    >>> drop_words("one two three four five", np.random.default_rng(0), probability=1.0)
    'one four five'
    """
    if not 0 <= share <= 1 or not 0 <= probability <= 1:
        raise ConfigError(f"share is {share}, probability {probability} (expected numbers between 0 and 1)")
    words = text.split(" ")
    if rng.random() >= probability:
        return " ".join(word for word in words if word)
    gone = set(rng.choice(len(words), round(len(words) * share), replace=replacement).tolist())
    return " ".join(word for position, word in enumerate(words) if word and position not in gone)
