"""One ranking from several. A rule is chosen by name; both are functions of the lists alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar

Rule = Literal["rrf", "weighted"]
RULES: tuple[Rule, ...] = ("rrf", "weighted")
RRF_K = 60  # of the paper; it makes the first places differ little, so that agreement counts more than one first place
K = TypeVar("K", bound=Hashable)
Ranking = Sequence[tuple[K, float]]  # best first, with scores


def reciprocal_rank(rankings: Sequence[Ranking[K]], weights: Sequence[float]) -> dict[K, float]:
    """The sum over the lists of weight / (60 + rank), ranks from 1 (Cormack, Clarke and Büttcher, 2009). Scores are not looked at,
    so that scales need not agree; a list without the item adds nothing."""
    total: dict[K, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, (key, _) in enumerate(ranking, start=1):
            total[key] = total.get(key, 0.0) + weight / (RRF_K + rank)
    return total


def weighted_scores(rankings: Sequence[Ranking[K]], weights: Sequence[float]) -> dict[K, float]:
    """The weighted sum of scores, each list's moved to 0 (its worst) .. 1 (its best); a list without the item adds nothing. A list
    of equal scores counts 1 for each of its items."""
    total: dict[K, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        if not ranking:
            continue
        low, high = min(score for _, score in ranking), max(score for _, score in ranking)
        for key, score in ranking:
            share = (score - low) / (high - low) if high > low else 1.0
            total[key] = total.get(key, 0.0) + weight * share
    return total


def fuse(rule: Rule, rankings: Sequence[Ranking[K]], weights: Sequence[float]) -> Mapping[K, float]:
    """Fused scores, best first; equal ones in the order of the first list that has them."""
    total = (reciprocal_rank if rule == "rrf" else weighted_scores)(rankings, weights)
    return dict(sorted(total.items(), key=lambda pair: -pair[1]))
