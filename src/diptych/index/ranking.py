"""Ranking of a search plan: engine queries, their fusion, and removal of near-duplicate hits.

Letters: N items, D width.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diptych.core.errors import ConfigError
from diptych.index.engine.store import EngineQuery, ItemFilter, ScoredItem, SparseVector, Store, Vector
from diptych.index.exact import Hit
from diptych.index.filters import Kind, check_where
from diptych.index.items import hit_of
from diptych.index.plan import SearchPlan
from diptych.index.vectors import cosine, unit_rows


def _only(rankings: Sequence[list[ScoredItem]]) -> list[ScoredItem]:
    return rankings[0] if rankings else []


def _unchanged(hit: Hit) -> Hit:
    return hit


@dataclass(frozen=True)
class RankingPlan:
    """Engine queries of a search plan, and the way their answers become one ranking.

    queries     engine queries for the first items of a ranking, as many as given; none where nothing can match
    without     items that are not hits, such as the examples of the plan
    merge       fuses the engine's answers into one ranking
    format_hit  a hit as that kind of index shows it
    reads       spaces whose vectors `merge` needs
    """

    queries: Callable[[int], Sequence[EngineQuery]]
    without: tuple[uuid.UUID, ...] = ()
    merge: Callable[[Sequence[list[ScoredItem]]], list[ScoredItem]] = _only
    format_hit: Callable[[Hit], Hit] = _unchanged
    reads: tuple[str, ...] = ()


def hits_of(
    ranking: RankingPlan, plan: SearchPlan, store: Store, columns: Mapping[str, Kind], *, compare: str, deepest: int = 0
) -> list[Hit]:
    """The hits of a plan, best first.

    compare  the space in which `distinct` compares items
    deepest  how far down `distinct` looks; 0 to the end
    """
    where = plan.where or {}
    check_where(where, columns)
    choice = ItemFilter(where, columns, without=ranking.without)

    def first(limit: int, spaces: Sequence[str]) -> list[ScoredItem]:
        read = tuple(dict.fromkeys((*spaces, *ranking.reads)))
        return ranking.merge([ordered_query(store, ask, choice, vectors=read) for ask in ranking.queries(limit)])[:limit]

    if plan.distinct is None:
        ranked = first(plan.k, ())
    else:
        ranked = diversify(lambda limit: first(limit, (compare,)), compare, plan.k, plan.distinct, deepest=deepest)
    return [ranking.format_hit(hit_of(item, columns)) for item in ranked]


MARGIN = 16
"""Items read beyond the last one of a ranking, to see whether it ties with the next."""
MOST_TIES = 10_000
"""Items of equal score that are read and ordered at the end of a ranking; of more, the engine chooses."""


def tie_key(item: ScoredItem) -> tuple[float, str, str]:
    """Sort key of an item: the better score, then the smaller uid, then the engine's name, which tells the texts of a sample apart."""
    return -item.score, str(item.payload.get("uid", "")), str(item.id)


def ordered_query(store: Store, ask: EngineQuery, choice: ItemFilter, *, vectors: Sequence[str] = ()) -> list[ScoredItem]:
    """Answer of the engine, items of equal score in the order of their uids, also where the end of the ranking divides such items.

    The engine orders them by how its files came about, so that equal indexes built or added to differently would answer differently.
    """
    limit = ask.limit + MARGIN
    while True:
        items = store.query(replace(ask, limit=limit), choice, vectors=vectors)
        last = items[ask.limit - 1].score if len(items) >= ask.limit else None
        if last is None or len(items) < limit or items[-1].score < last or limit >= ask.limit + MOST_TIES:
            return sorted(items, key=tie_key)[: ask.limit]
        limit = min(8 * limit, ask.limit + MOST_TIES)


def diversify(
    rank: Callable[[int], list[ScoredItem]], space: str, k: int, threshold: float, *, deepest: int = 0
) -> list[ScoredItem]:
    """The k best items of which no two are more similar than `threshold` (cosine in `space`).

    Going down the ranking, an item is kept unless it is too similar to one kept before it. So the answer does not depend on the search
    depth, and the answer for k is the beginning of the answer for k + 1. (LAION's explorer keeps the first of each connected component of
    the items it has read, so that a chain of small steps removes distant ones.) `rank(limit)` gives the ranking with vectors.

    deepest  maximum number of items read; fewer than k are returned when those hold no more; 0 reads to the end
    """
    if not -1 <= threshold <= 1:
        raise ConfigError(f"distinct is {threshold} (expected a cosine, such as 0.94)")
    limit = min(4 * k, deepest or 4 * k)
    while True:
        ranked = rank(limit)
        kept = _distinct_positions([item.vectors[space] for item in ranked], k, threshold)
        if len(kept) == k or len(ranked) < limit or limit == deepest:
            break
        limit = min(4 * limit, deepest or 4 * limit)
    return [ranked[position] for position in kept]


def _distinct_positions(vectors: Sequence[Vector], k: int, threshold: float) -> list[int]:
    """Positions of at most k vectors, each the first that is not too similar to one before it."""
    kept: list[int] = []
    dense = not any(isinstance(vector, SparseVector) for vector in vectors)
    unit_ND = unit_rows(np.stack([np.asarray(vector) for vector in vectors])) if dense and vectors else None
    for position, vector in enumerate(vectors):
        if unit_ND is not None:
            near = float((unit_ND[kept] @ unit_ND[position]).max(initial=-1.0))
        else:
            near = max((cosine(vector, vectors[other]) for other in kept), default=-1.0)
        if not kept or near <= threshold:
            kept.append(position)
            if len(kept) == k:
                break
    return kept
