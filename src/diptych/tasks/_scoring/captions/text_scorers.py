"""Text-only baselines for caption probes, and scorers whose result is known in closed form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from diptych.core.randomness import keyed_seed
from diptych.data.probes.case import Case, words_of


def perfect(case: Case) -> list[float]:
    """Scores by the truth: credit 1 everywhere."""
    return [{"true": 1.0, "entailed": 0.5, "false": 0.0}[role] for role in case.roles]


def constant(case: Case) -> list[float]:
    """Equal scores for all options: credit is chance."""
    return [0.0] * len(case.options)


def bag_of_words(case: Case) -> list[float]:
    """Scores by the words of the true caption without their order: 1/n where n options have these words, else 1."""
    true = Counter(words_of(case.options[case.roles.index("true")]))
    return [-float(sum(((Counter(words_of(o)) - true) + (true - Counter(words_of(o)))).values())) for o in case.options]


def blind(cases: Sequence[Case], positives: Sequence[tuple[str, str]], trained_on: Iterable[str] = ()) -> list[list[float]]:
    """Mean log-probability of a word given the one before.

    trained_on  captions to count words in; where there are none, those of `positives`, pairs of (group, caption), in two halves of the
                groups, each judged by the other
    """
    if captions := list(trained_on):
        counts = _Bigrams(captions)
        return [[counts.score(option) for option in case.options] for case in cases]
    halves = [_Bigrams(text for group, text in positives if _half(group) == half) for half in (0, 1)]
    return [[halves[1 - _half(case.group)].score(option) for option in case.options] for case in cases]


def _half(group: str) -> int:
    return keyed_seed("probe", group) % 2


class _Bigrams:
    """Counts with add-one smoothing; a word that was never seen counts as one further word."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.singles: Counter[str] = Counter()
        for text in texts:
            words = ["", *words_of(text), ""]
            self.pairs.update(pairwise(words))
            self.singles.update(words[:-1])
        self.size = len(self.singles) + 1

    def score(self, text: str) -> float:
        words = ["", *words_of(text), ""]
        steps = [math.log((self.pairs[one, two] + 1) / (self.singles[one] + self.size)) for one, two in pairwise(words)]
        return sum(steps) / len(steps)
