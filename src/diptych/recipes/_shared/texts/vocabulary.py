"""A vocabulary of word pieces that is learned from the texts a recipe trains on, and the tokeniser that a recipe has."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from diptych.core.errors import ConfigError
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.cleaners import Clean


def learned_vocabulary(texts: Iterable[str], pieces: int) -> str:
    """Byte pairs of these texts, `pieces` at most, as the JSON that a prepared recipe keeps. The order of the texts does not matter."""
    return Tokenizer.train(texts, pieces).to_json()


def tokenizer_of(source: str, vocabulary: str, *, clean: Clean | None = None) -> Tokenizer:
    """The tokeniser that `source` names: "data" (the learned vocabulary), "weights" (that of the weights a run starts from), "clip", or a
    path. Raises ConfigError before it is there.

    clean  what it does to a text first; None leaves it what it does by itself
    """
    if source == "data" and not vocabulary:
        raise ConfigError("tokenizer 'data' is learned from the data: call prepare(data) first")
    if source == "weights" and not vocabulary:
        raise ConfigError("tokenizer 'weights' comes with the weights of --init (expected 'clip', 'data', or a path)")
    return _tokenizer(vocabulary if source in ("data", "weights") else source, clean)


@lru_cache(maxsize=8)
def _tokenizer(spec: str, clean: Clean | None) -> Tokenizer:
    tokenizer = Tokenizer.from_spec(spec)
    if clean is not None:
        tokenizer.clean = clean
    return tokenizer
