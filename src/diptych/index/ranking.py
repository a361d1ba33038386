"""From a plan to hits: which rankings the engine is asked for, how they become one, and no two hits too much alike.

Letters: N items, D width.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.errors import ConfigError
from diptych.index.engine.store import Ask, Choice, Scored, Store, Terms, Vector
from diptych.index.exact import Hit
from diptych.index.filters import Kind, check_where
from diptych.index.items import hit_of
from diptych.index.plan import SearchPlan
from diptych.index.vectors import cosine, unit_rows


def _only(rankings: Sequence[list[Scored]]) -> list[Scored]:
    return rankings[0] if rankings else []


def _unchanged(hit: Hit) -> Hit:
    return hit


@dataclass(frozen=True)
class Ranking:
    """What a kind of index makes of a plan.

    asks     what the engine is asked, for the beginning of a ranking of a given length; nothing, where nothing can be found
    without  items that are no hits, such as the examples of the plan
    merge    one ranking of the engine's answers
    shown    a hit as that kind of index shows it
    """

    asks: Callable[[int], Sequence[Ask]]
    without: tuple[uuid.UUID, ...] = ()
    merge: Callable[[Sequence[list[Scored]]], list[Scored]] = _only
    shown: Callable[[Hit], Hit] = _unchanged


def hits_of(
    ranking: Ranking, plan: SearchPlan, store: Store, columns: Mapping[str, Kind], *, compare: str, deepest: int = 0
) -> list[Hit]:
    """The hits of a plan, best first.

    compare  the space in which `distinct` compares items
    deepest  how far down `distinct` looks; 0 to the end
    """
    where = plan.where or {}
    check_where(where, columns)
    choice = Choice(where, columns, without=ranking.without)

    def first(limit: int, spaces: Sequence[str]) -> list[Scored]:
        return ranking.merge([store.query(ask, choice, vectors=spaces) for ask in ranking.asks(limit)])[:limit]

    if plan.distinct is None:
        found = first(plan.k, ())
    else:
        found = first_of_its_kind(lambda limit: first(limit, (compare,)), compare, plan.k, plan.distinct, deepest=deepest)
    return [ranking.shown(hit_of(item, columns)) for item in found]


def first_of_its_kind(
    rank: Callable[[int], list[Scored]], space: str, k: int, threshold: float, *, deepest: int = 0
) -> list[Scored]:
    """The k best items of which no two are more alike than `threshold` (cosine in `space`).

    Going down the ranking, an item stays unless it is too like one that stayed before it. So the answer does not depend on how far
    one looks, and the answer for k is the beginning of the answer for k + 1. (LAION's explorer keeps the first of each connected component
    of what it has looked at, so that a chain of small steps takes far ones away.) `rank(limit)` gives the ranking with vectors.

    deepest  look at no more items than so many, and answer fewer than k when those hold no more; 0 looks to the end
    """
    if not -1 <= threshold <= 1:
        raise ConfigError(f"distinct is {threshold} (expected a cosine, such as 0.94)")
    limit = min(4 * k, deepest or 4 * k)
    while True:
        found = rank(limit)
        kept = _apart([item.vectors[space] for item in found], k, threshold)
        if len(kept) == k or len(found) < limit or limit == deepest:
            break
        limit = min(4 * limit, deepest or 4 * limit)
    return [found[place] for place in kept]


def _apart(vectors: Sequence[Vector], k: int, threshold: float) -> list[int]:
    """Places of at most k vectors, each the first that is not too like one before it."""
    kept: list[int] = []
    dense = not any(isinstance(vector, Terms) for vector in vectors)
    unit_ND = unit_rows(np.stack([np.asarray(vector) for vector in vectors])) if dense and vectors else None
    for place, vector in enumerate(vectors):
        if unit_ND is not None:
            near = float((unit_ND[kept] @ unit_ND[place]).max(initial=-1.0))
        else:
            near = max((cosine(vector, vectors[other]) for other in kept), default=-1.0)
        if not kept or near <= threshold:
            kept.append(place)
            if len(kept) == k:
                break
    return kept
