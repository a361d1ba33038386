"""Rules for alt texts, by counts alone (ALIGN, Jia et al., 2021, 2102.05918, section on text filters).

Three rules, each counted over the raw data before any row leaves: a text that stands beside many different images says little about
any of them ("1920x1080", "click to enlarge"); a text with a token that is rare in the data is often machine code; a text of one or
two words, or of very many, is seldom a description.

Words are runs of letters and digits, lower-cased; languages without spaces count a clause as a word, so turn `min_words` off there.
The counts are exact. Memory: the distinct texts, and the distinct words and word pairs while `vocabulary` is on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


def words_of(text: str) -> list[str]:
    """
    >>> words_of("A dog's half-eaten bone!")
    ['a', "dog's", 'half-eaten', 'bone']
    """
    return WORD.findall(text.casefold())


def tokens_of(text: str) -> Iterator[str]:
    """Unigrams and bigrams of a text.

    >>> list(tokens_of("a red bus"))
    ['a', 'red', 'bus', 'a red', 'red bus']
    """
    words = words_of(text)
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))


def same_text(text: str) -> str:
    """Normalised text for equality: case folded, single spaces."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class TextCounts:
    """Frequencies of texts and tokens in the raw data.

    images  by text (`same_text`): how many different images it stands beside
    common  the tokens that are frequent enough; None when all are
    """

    images: Counter[str]
    common: frozenset[str] | None

    @classmethod
    def of(cls, texts_of_images: Iterable[Iterable[str]], vocabulary: int = 0) -> TextCounts:
        """`texts_of_images` gives the texts of one image after the other, each image once; `vocabulary` 0 keeps every token.

        Of tokens that are equally frequent at the edge the alphabetically first stay, so that the order of rows does not matter.
        """
        images: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for texts in texts_of_images:
            strings = list(texts)
            images.update({same_text(text) for text in strings})
            if vocabulary:
                for text in strings:
                    tokens.update(tokens_of(text))
        if not vocabulary or len(tokens) <= vocabulary:
            return cls(images, None)
        ordered = sorted(tokens, key=lambda token: (-tokens[token], token))
        return cls(images, frozenset(ordered[:vocabulary]))

    def fault(self, text: str, *, shared_by: int, min_words: int, max_words: int) -> str:
        """Reason to drop a text: the name of the rule, a colon and the value; "" when it stays. A limit of 0 is off."""
        count = len(words_of(text))
        if count < min_words or 0 < max_words < count:
            return f"length: {count} words (expected {min_words}..{max_words or 'any number'})"
        beside = self.images[same_text(text)]
        if 0 < shared_by < beside:
            return f"shared_text: {text!r} stands beside {beside:,} images (expected at most {shared_by})"
        if self.common is not None:
            rare = next((token for token in tokens_of(text) if token not in self.common), "")
            if rare:
                return f"rare_token: {rare!r} is not among the {len(self.common):,} most frequent words and pairs"
        return ""
