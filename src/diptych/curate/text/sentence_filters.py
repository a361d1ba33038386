"""Filters of sentences that may describe a picture: RealSyn's extraction (Gu et al., 2025, 2502.12513).

Two of its rules read what a sentence says: the complexity of its scene graph, and a verb that tells an action. They come from the CAT
filter (Radenovic et al., 2023, 2301.02280), whose counting is used here; the graph is that of our parser by rules, for English.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from diptych.core.errors import ConfigError
from diptych.curate.text.ngram import NGram, words_of
from diptych.data.text.english.scene_parser import SceneParser
from diptych.data.text.english.tagger import tag
from diptych.data.text.english.words import split

ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\S+", re.IGNORECASE)
EMOJI = re.compile("[\U0001f000-\U0001faff\U0001fc00-\U0001fffd\u2600-\u27bf\ufe0f\u200d\u20e3]")
STATES = frozenset(split("be am is are was were been being have has had having do does did done doing"))
"""Verbs that tell no action."""


@dataclass(frozen=True)
class SentenceRules:
    """min_words, max_words  minimum and maximum number of words of a sentence, without addresses and emoji
    complexity  minimum number of attributes and relations of one object of the sentence; 0 is off
    action      the sentence must have an action verb
    entropy     minimum entropy of its word distribution in nats
    perplexity  (minimum, maximum) by a language model; (0, 0) is off
    """

    min_words: int = 3
    max_words: int = 81
    entropy: float = 0.3
    perplexity: tuple[float, float] = (0.0, 0.0)
    complexity: int = 0
    action: bool = False

    def __post_init__(self) -> None:
        low, high = self.perplexity
        if not 0 < self.min_words <= self.max_words or min(self.entropy, self.complexity) < 0 or not 0 <= low <= high:
            raise ConfigError(
                f"words {self.min_words}..{self.max_words}, entropy {self.entropy}, complexity {self.complexity}, perplexity "
                f"{self.perplexity} (expected 1 or more and no more than the most, 0 or more twice, least and most)"
            )

    def fault(self, text: str, model: NGram | None = None) -> str:
        """ "" or, in front of a colon, the rule that a cleaned sentence breaks.

        >>> SentenceRules().fault("no no no no")
        'entropy: 0.00 (expected at least 0.3)'
        """
        words = [word for word in words_of(text) if word[0].isalnum()]
        if not self.min_words <= len(words) <= self.max_words:
            return f"length: {len(words)} words (expected {self.min_words} to {self.max_words})"
        if self.complexity and (links := complexity(text)) < self.complexity:
            return f"complexity: {links} (expected at least {self.complexity})"
        if self.action and not has_action_verb(text):
            return "action: no verb tells one"
        if (nats := entropy(words)) < self.entropy:
            return f"entropy: {nats:.2f} (expected at least {self.entropy:g})"
        low, high = self.perplexity
        if model is not None and high and not low <= (measured := model.perplexity(text)) <= high:
            return f"perplexity: {measured:.1f} (expected {low:g} to {high:g})"
        return ""


def strip_addresses(text: str) -> str:
    """Sentence without addresses and emoji.

    >>> strip_addresses("Look \U0001f600 at https://a.example/b now")
    'Look at now'
    """
    return " ".join(EMOJI.sub(" ", ADDRESS.sub(" ", text)).split())


def entropy(words: list[str]) -> float:
    """Entropy of the distribution of the words of one sentence, in nats; 0 where all are the same."""
    total = len(words)
    return max(0.0, -sum(count / total * math.log(count / total) for count in Counter(words).values()))


def complexity(text: str) -> int:
    """Number of attributes and relations of the thing of a sentence that has most of them.

    >>> complexity("A black cat chases a small brown bird.")
    3
    """
    parsed = SceneParser().parse(text)
    return max(
        (
            len(attributes) + sum(index in (subject, thing) for subject, _, thing in parsed.relations)
            for index, (_, attributes) in enumerate(parsed.things)
        ),
        default=0,
    )


def has_action_verb(text: str) -> bool:
    """True where a verb of the sentence is an action: any but forms of "be", "have" and "do".

    >>> has_action_verb("He is running in the park"), has_action_verb("It was a good year")
    (True, False)
    """
    return any(word.tag == "VERB" and word.lower not in STATES for word in tag(text))
