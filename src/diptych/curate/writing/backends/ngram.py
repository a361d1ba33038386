"""Rewrites captions by an n-gram model of captions: content words stay and keep their order, small words between them are drawn anew.

Between two content words stands what stood between words in the texts that the model learned from: nothing, or one or two of the small
words below. A choice is drawn by how likely the n-gram model finds it between its neighbours. Prepositions, negations and numbers are
content here: whether a cup stands on or under a plate is no matter of style.
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
from diptych.curate.writing.requests import PUBLISHED, Request, Sampling
from diptych.curate.writing.sampling import drawn_from, nucleus

SMALL = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "some", "is", "are", "was", "were", "be", "being", "been"}
    | {"it", "its", "there", "here", "very", "just", "also"}
)
GAPS = 48
"""So many of the most frequent gaps are choices everywhere."""
LONGEST = 2
"""Small words in a gap."""


@dataclass(frozen=True, eq=False)
class NGramRewriter:
    """model  of captions
    gaps   the most frequent runs of small words between two others
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
        """From texts, and nothing else."""
        found = list(texts)
        counts: Counter[tuple[str, ...]] = Counter()
        for text in found:
            counts.update(gap for _, gap in _pieces(words_of(text)) if len(gap) <= LONGEST)
        ranked = sorted(counts, key=lambda gap: (-counts[gap], gap))
        return cls(NGram.learned(found, order), tuple(ranked[:GAPS]), sampling)

    @cached_property
    def identity(self) -> str:
        return config_hash(["ngram", self.model.fingerprint, self.gaps, self.sampling.temperature, self.sampling.top_p])

    def tokens(self, text: str) -> int:
        return len(words_of(text))

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        found = []
        for request in requests:
            words = words_of(request.caption)
            text = spaced(self._redrawn(words, keyed_rng("ngram", request.seed))) if words else ""
            text = f"{text}, with {listed(request.details)}" if text and request.details else text
            found.append(Reply(text, len(words), self.tokens(text)))
        return found

    def _redrawn(self, words: Sequence[str], rng: np.random.Generator) -> list[str]:
        history = [START] * (self.model.order - 1)
        pieces = _pieces(words)
        for place, (word, gap) in enumerate(pieces):
            after = pieces[place + 1][0] if place + 1 < len(pieces) else END
            choices = list(dict.fromkeys((gap, *self.gaps)))
            history += [word] if word else []
            nats = np.array([[self.model.log_probability([*choice, after], history) for choice in choices]])
            if self.sampling.temperature > 0:
                chosen = drawn_from(nucleus(nats, self.sampling.temperature, self.sampling.top_p)[0], rng.random())
            else:
                chosen = int(nats.argmax())
            history += choices[chosen]
        return history[self.model.order - 1 :]


def _pieces(words: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Each content word with the small words behind it; "" stands for the start.

    >>> _pieces(["a", "dog", "on", "the", "road"])
    [('', ('a',)), ('dog', ()), ('on', ('the',)), ('road', ())]
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    for word in words:
        if word in SMALL:
            found[-1][1].append(word)
        else:
            found.append((word, []))
    return [(word, tuple(gap)) for word, gap in found]


def spaced(words: Sequence[str]) -> str:
    """Words with spaces between them, none before a sign that closes.

    >>> spaced(["a", "dog", ",", "asleep", "."])
    'a dog, asleep.'
    """
    return "".join(word if word in ".,;:!?)" or not place else f" {word}" for place, word in enumerate(words))
