"""Rewrites captions with an n-gram model: content words keep their order, function words between them are resampled.

The gap between two content words is filled with a gap seen in the training texts: nothing, or one or two of the small words
below, sampled by the n-gram model's probability between its neighbours. Prepositions, negations and numbers count as content
words: a cup on a plate must not become a cup under a plate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from diptych.core.config import config_hash
from diptych.core.contracts import Reply
from diptych.core.randomness import keyed_rng
from diptych.curate.text.ngram import END, START, NGram, words_of
from diptych.curate.writing.backends.grammar import listed
from diptych.curate.writing.requests import PUBLISHED, Sampling, TextRequest
from diptych.curate.writing.sampling import nucleus, sample_index

SMALL = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "some", "is", "are", "was", "were", "be", "being", "been"}
    | {"it", "its", "there", "here", "very", "just", "also"}
)
GAPS = 48
"""Number of most frequent gaps that are candidates everywhere."""
LONGEST = 2
"""Maximum number of small words in a gap."""


@dataclass(frozen=True, eq=False)
class NGramRewriter:
    """model  n-gram model of captions
    gaps   the most frequent sequences of function words between two other words
    """

    model: NGram
    gaps: tuple[tuple[str, ...], ...]
    sampling: Sampling = PUBLISHED

    name = "ngram"
    terms = ""
    at_once = 1024
    calls = 1
    kept = False

    @classmethod
    def learned(cls, texts: Iterable[str], sampling: Sampling, order: int = 3) -> Self:
        """Rewriter trained on texts, and nothing else."""
        corpus = list(texts)
        counts: Counter[tuple[str, ...]] = Counter()
        for text in corpus:
            counts.update(gap for _, gap in _pieces(words_of(text)) if len(gap) <= LONGEST)
        ranked = sorted(counts, key=lambda gap: (-counts[gap], gap))
        return cls(NGram.learned(corpus, order), tuple(ranked[:GAPS]), sampling)

    @cached_property
    def identity(self) -> str:
        return config_hash(["ngram", self.model.fingerprint, self.gaps, self.sampling.temperature, self.sampling.top_p])

    def tokens(self, text: str) -> int:
        return len(words_of(text))

    def write(self, requests: Sequence[TextRequest]) -> list[Reply]:
        replies = []
        for request in requests:
            words = words_of(request.caption)
            text = spaced(self._redrawn(words, keyed_rng("ngram", request.seed))) if words else ""
            text = f"{text}, with {listed(request.details)}" if text and request.details else text
            replies.append(Reply(text, len(words), self.tokens(text)))
        return replies

    def _redrawn(self, words: Sequence[str], rng: np.random.Generator) -> list[str]:
        history = [START] * (self.model.order - 1)
        pieces = _pieces(words)
        for index, (word, gap) in enumerate(pieces):
            after = pieces[index + 1][0] if index + 1 < len(pieces) else END
            choices = list(dict.fromkeys((gap, *self.gaps)))
            history += [word] if word else []
            nats = np.array([[self.model.log_probability([*choice, after], history) for choice in choices]])
            if self.sampling.temperature > 0:
                chosen = sample_index(nucleus(nats, self.sampling.temperature, self.sampling.top_p)[0], rng.random())
            else:
                chosen = int(nats.argmax())
            history += choices[chosen]
        return history[self.model.order - 1 :]


def _pieces(words: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Content words, each with the function words that follow it; "" stands for the start.

    >>> _pieces(["a", "dog", "on", "the", "road"])
    [('', ('a',)), ('dog', ()), ('on', ('the',)), ('road', ())]
    """
    pieces: list[tuple[str, list[str]]] = [("", [])]
    for word in words:
        if word in SMALL:
            pieces[-1][1].append(word)
        else:
            pieces.append((word, []))
    return [(word, tuple(gap)) for word, gap in pieces]


def spaced(words: Sequence[str]) -> str:
    """Joins words with spaces, without a space before closing punctuation.

    >>> spaced(["a", "dog", ",", "asleep", "."])
    'a dog, asleep.'
    """
    return "".join(word if word in ".,;:!?)" or not index else f" {word}" for index, word in enumerate(words))
