"""Which sentences of documents may describe a picture, by counting: RealSyn's extraction (Gu et al., 2025, 2502.12513)."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from diptych.core.errors import ConfigError
from diptych.curate.text.ngram import NGram, words_of

ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\S+", re.IGNORECASE)
EMOJI = re.compile("[\U0001f000-\U0001faff\U0001fc00-\U0001fffd\u2600-\u27bf\ufe0f\u200d\u20e3]")


@dataclass(frozen=True)
class SentenceRules:
    """min_words, max_words  of a sentence without addresses and emoji
    entropy     nats of the distribution of its words, at least
    perplexity  (least, most) by a language model; (0, 0) does not ask it
    """

    min_words: int = 3
    max_words: int = 81
    entropy: float = 0.3
    perplexity: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        low, high = self.perplexity
        if not 0 < self.min_words <= self.max_words or self.entropy < 0 or not 0 <= low <= high:
            raise ConfigError(
                f"words {self.min_words}..{self.max_words}, entropy {self.entropy}, perplexity {self.perplexity} "
                "(expected 1 or more and no more than the most, 0 or more, least and most)"
            )

    def fault(self, text: str, model: NGram | None = None) -> str:
        """ "" or, in front of a colon, the rule that a cleaned sentence breaks.

        >>> SentenceRules().fault("no no no no")
        'entropy: 0.00 (expected at least 0.3)'
        """
        words = [word for word in words_of(text) if word[0].isalnum()]
        if not self.min_words <= len(words) <= self.max_words:
            return f"length: {len(words)} words (expected {self.min_words} to {self.max_words})"
        if (nats := entropy(words)) < self.entropy:
            return f"entropy: {nats:.2f} (expected at least {self.entropy:g})"
        low, high = self.perplexity
        if model is not None and high and not low <= (found := model.perplexity(text)) <= high:
            return f"perplexity: {found:.1f} (expected {low:g} to {high:g})"
        return ""


def cleaned(text: str) -> str:
    """Without addresses and emoji.

    >>> cleaned("Look \U0001f600 at https://a.example/b now")
    'Look at now'
    """
    return " ".join(EMOJI.sub(" ", ADDRESS.sub(" ", text)).split())


def entropy(words: list[str]) -> float:
    """Nats of the distribution of the words of one sentence; 0 where all are the same."""
    total = len(words)
    return max(0.0, -sum(count / total * math.log(count / total) for count in Counter(words).values()))
