"""Word n-gram language model with Witten-Bell interpolation (Witten and Bell, 1991), trained only on texts.

    P(w | h) = (count(h w) + T(h) P(w | h')) / (count(h) + T(h)),    T(h) = how many different words came after h

with h' the history without its first word, and as the final fallback 1 / (V + 1): V known words and one for all unknown ones. The
probabilities after any history sum to 1. Texts are lower-cased and split into words and single punctuation marks, followed by an
end token.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from diptych.core.errors import ConfigError

TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
START, END = "<s>", "</s>"
History = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """
    >>> words_of("A dog's ball, red.")
    ['a', "dog's", 'ball', ',', 'red', '.']
    """
    return TOKEN.findall(text.lower())


@dataclass(frozen=True, eq=False)
class NGram:
    """order  longest context and word together
    after  history -> the words that came after it, with counts; histories of 0 to order - 1 words
    """

    order: int
    after: dict[History, Counter[str]]
    _totals: dict[History, int] = field(default_factory=dict, repr=False)

    @classmethod
    def learned(cls, texts: Iterable[str], order: int = 3) -> Self:
        """Trains a model on texts. Raises an error for an empty list."""
        if order < 1:
            raise ConfigError(f"order is {order} (expected 1 or more)")
        after: dict[History, Counter[str]] = {}
        for text in texts:
            row = [START] * (order - 1) + words_of(text) + [END]
            for index in range(order - 1, len(row)):
                for length in range(order):
                    after.setdefault(tuple(row[index - length : index]), Counter())[row[index]] += 1
        if () not in after:
            raise ConfigError("an n-gram model needs texts to learn from (expected one or more)")
        return cls(order, after, {history: words.total() for history, words in after.items()})

    @property
    def vocabulary(self) -> Counter[str]:
        """Words with their counts, including the end token."""
        return self.after[()]

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(str(self.order).encode())
        for history in sorted(self.after):
            digest.update(repr((history, sorted(self.after[history].items()))).encode())
        return digest.hexdigest()[:16]

    def probability(self, word: str, history: Sequence[str]) -> float:
        """Probability of `word`, or of an unknown one, after the last words of `history`."""
        chance = 1.0 / (len(self.vocabulary) + 1)
        for length in range(min(self.order - 1, len(history)) + 1):
            context = tuple(history[len(history) - length :])
            words = self.after.get(context)
            if words is None:
                break
            kinds = len(words)
            chance = (words[word] + kinds * chance) / (self._totals[context] + kinds)
        return chance

    def log_probability(self, words: Sequence[str], history: Sequence[str] = ()) -> float:
        """Log-probability of a sequence of words, in nats."""
        row = [*history, *words]
        return sum(math.log(self.probability(row[index], row[:index])) for index in range(len(history), len(row)))

    def perplexity(self, text: str) -> float:
        """Perplexity: exp of the mean nats per word, including the end token. Low for formulaic texts, high for texts that are
        not natural language. Infinity for an empty text.
        """
        words = words_of(text)
        if not words:
            return math.inf
        start = [START] * (self.order - 1)
        return math.exp(-self.log_probability([*words, END], start) / (len(words) + 1))
