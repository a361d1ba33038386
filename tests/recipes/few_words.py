"""A vocabulary of a few hundred pieces for tests that need a tokeniser and no data: tables, gradients and what processes send each other
are a hundredth of CLIP's with its 49,408 words."""

from __future__ import annotations

from typing import Any

from diptych.recipes._shared.texts.vocabulary import learned_vocabulary

SENTENCES = (
    "a small red circle left of a large blue square", "two yellow triangles above a green cross", "roses in front of a grey wall",
    "the dog that sleeps near a striped cup is brown", "one person rides a horse and another one holds a ball",
)  # fmt: skip
WORDS = 280
"""Ids below this are in the vocabulary."""
FEW_WORDS: dict[str, Any] = {"tokenizer": "data", "pieces": 300, "vocabulary": learned_vocabulary(SENTENCES, 300)}
"""Fields of a recipe of pairs."""
