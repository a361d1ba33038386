"""METEOR without a thesaurus (Banerjee and Lavie, 2005): unigrams matched exactly, then by stem.

    F = P R / (alpha P + (1 - alpha) R), score = F (1 - gamma (chunks / matches)^beta)

NLTK's version, the reward in RL4LMs, also matches WordNet synonyms and uses Porter's stemmer where this one uses Porter2: `nltk_meteor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from diptych.tasks._scoring.captions.stemming import stem

Match = tuple[int, int]
"""Positions of two matching words: (in the answer, in the reference)."""


def meteor(
    answer: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    alpha: float = 0.9,
    beta: float = 3.0,
    gamma: float = 0.5,
    stemmer: Callable[[str], str] = stem,
) -> float:
    """Best METEOR score over the references, 0 to 1. Words are lower case; an empty answer or reference scores 0."""
    return max((_single(answer, reference, alpha, beta, gamma, stemmer) for reference in references), default=0.0)


def _single(
    answer: Sequence[str], reference: Sequence[str], alpha: float, beta: float, gamma: float, stemmer: Callable[[str], str]
) -> float:
    matches = alignment(answer, reference, stemmer)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(answer), len(matches) / len(reference)
    mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    chunks = 1 + sum(following != (at + 1, other + 1) for (at, other), following in pairwise(matches))
    return float((1 - gamma * (chunks / len(matches)) ** beta) * mean)


def alignment(answer: Sequence[str], reference: Sequence[str], stemmer: Callable[[str], str] = stem) -> list[Match]:
    """Matched positions in answer order: equal words first, then equal stems. Each word matches once, starting from the end of
    both."""
    matches: list[Match] = []
    for form in (str, stemmer):
        open_answer = [at for at in range(len(answer)) if at not in {one for one, _ in matches}]
        open_reference = [at for at in range(len(reference)) if at not in {other for _, other in matches}]
        forms = {at: form(reference[at]) for at in open_reference}
        for at in reversed(open_answer):
            word = form(answer[at])
            other = next((index for index in reversed(open_reference) if forms[index] == word), None)
            if other is not None:
                open_reference.remove(other)
                matches.append((at, other))
    return sorted(matches)
