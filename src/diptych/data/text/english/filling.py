"""Replacement words for a position, by bigram counts: stands in for a fill-mask model and needs no download."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from diptych.data.text.english.tagger import tag

OFFERED = 5
"""A fill-mask model is asked for this many words, as published."""


class NeighbourCounts:
    """A `Filler` by counts of words between, after and before given neighbours in some captions.

    Words that stood between both neighbours come first, by count; then those that stood beside one of them, by the product of
    both counts.

    >>> fill = NeighbourCounts(["a red bus", "a blue bus", "a red car"])
    >>> list(fill("a ", " bus"))
    ['blue', 'red']
    """

    def __init__(self, captions: Iterable[str]) -> None:
        self._between: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._after: dict[str, Counter[str]] = defaultdict(Counter)
        self._before: dict[str, Counter[str]] = defaultdict(Counter)
        for caption in captions:
            words = ["", *(word.lower for word in tag(caption)), ""]
            for one, two in pairwise(words):
                self._after[one][two] += 1
                self._before[two][one] += 1
            for one, word, two in zip(words, words[1:], words[2:], strict=False):
                self._between[one, two][word] += 1

    def __call__(self, left: str, right: str) -> list[str]:
        one, two = (next((word.lower for word in words), "") for words in (tag(left)[::-1], tag(right)))
        between = self._between.get((one, two), Counter())
        after, before = self._after.get(one, Counter()), self._before.get(two, Counter())
        beside = Counter(
            {word: after[word] * before[word] for word in after if word in before and word not in between and word.isalpha()}
        )
        ranked = [sorted(counts, key=lambda word: (-counts[word], word)) for counts in (between, beside)]
        return [word for words in ranked for word in words if word and any(letter.isalpha() for letter in word)][:OFFERED]
