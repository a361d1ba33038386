"""Ranks of relevant items, with ties counted and never broken by accident.

Letters: N queries, M gallery items, B queries of one block, D width, K places shown.

For a query let s be the score of its best relevant item. Four numbers are sufficient for hits at K, reciprocal rank and median
rank under any tie policy, so the scores need not be stored:

    above     items with a score > s
    tied      items with score == s (m), of which `tied_relevant` (q) are relevant
    relevant  relevant items in the gallery

Scores are computed in double precision and rounded to single, so equal embeddings tie exactly, regardless of their position in a
block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from diptych.core.errors import ConfigError

Ties = Literal["expected", "pessimistic", "optimistic", "index"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scorer = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

CELLS = 4_000_000  # scores held at once: 32 MB in double precision


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank statistics, one entry per query; see the module docstring. `by_index` is the rank when the lower gallery row wins a
    tie.

    Queries without a relevant item have relevant == 0 and are ranked last.
    """

    above: Ints
    tied: Ints
    tied_relevant: Ints
    relevant: Ints
    by_index: Ints
    best: Floats
    top_NK: Ints
    top_score_NK: Floats
    gallery: int


def check_ties(ties: str) -> None:
    """Raises ConfigError for an unknown tie policy."""
    if ties not in get_args(Ties):
        raise ConfigError(f"ties is {ties!r} (expected {' | '.join(get_args(Ties))})")


def cosine(gallery_MD: npt.NDArray[Any]) -> Scorer:
    """Scores of a block of queries against unit rows."""
    transposed_DM = gallery_MD.astype(np.float64).T
    return lambda query_BD: query_BD.astype(np.float64) @ transposed_DM


def given_scores(score_BM: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scorer for precomputed scores: queries are rows of the score matrix."""
    return score_BM


def rank(
    query_ND: npt.NDArray[Any], scorer: Scorer, query_key: Ints, gallery_key: Ints, *, top: int = 5, width: int = 0
) -> Ranks:
    """Ranks the gallery for every query. An item is relevant if its key equals the query's. Never holds N x M scores.

    width  number of values that the scorer returns per query, if more than one per gallery item
    """
    n, m = len(query_key), len(gallery_key)
    top = min(top, m)
    numbers = np.zeros((5, n), np.int64)
    best = np.full(n, np.nan)
    top_NK, top_score_NK = np.zeros((n, top), np.int64), np.zeros((n, top))
    block = max(1, CELLS // max(m, width, 1))
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        score_BM = scorer(query_ND[rows]).astype(np.float32)
        relevant_BM = query_key[rows, None] == gallery_key[None, :]
        numbers[:, rows], best[rows] = _count(score_BM, relevant_BM)
        top_NK[rows], top_score_NK[rows] = _top(score_BM, top)
    above, tied, tied_relevant, relevant, by_index = numbers
    return Ranks(above, tied, tied_relevant, relevant, by_index, best, top_NK, top_score_NK, m)


def hits(above: Ints, tied: Ints, tied_relevant: Ints, k: int, ties: Ties, by_index: Ints) -> Floats:
    """Share of the orders of tied items in which a relevant one is among the first k: 0 or 1 where no tie matters.

    >>> one = np.array([1])
    >>> hits(above=one, tied=4 * one, tied_relevant=one, k=3, ties="expected", by_index=5 * one)  # 2 places for 4 items
    array([0.5])
    """
    if ties == "index":
        return (by_index <= k).astype(np.float64)
    open_ranks = k - above
    if ties == "pessimistic":
        return (open_ranks > tied - tied_relevant).astype(np.float64)
    if ties == "optimistic":
        return (open_ranks >= 1).astype(np.float64)
    return 1.0 - _none_in(open_ranks, tied, tied_relevant)


def ranks(above: Ints, tied: Ints, tied_relevant: Ints, ties: Ties, by_index: Ints) -> Floats:
    """Rank of the best relevant item, from 1; under `expected` the mean over the orders of tied items."""
    if ties == "index":
        return by_index.astype(np.float64)
    if ties == "pessimistic":
        return (above + tied - tied_relevant + 1).astype(np.float64)
    if ties == "optimistic":
        return (above + 1).astype(np.float64)
    return np.asarray(above + (tied + 1) / (tied_relevant + 1), np.float64)


def reciprocal_ranks(above: Ints, tied: Ints, tied_relevant: Ints, ties: Ties, by_index: Ints) -> Floats:
    """1 / rank; under `expected` the mean of 1 / rank over the orders of tied items (not 1 / mean rank)."""
    if ties != "expected":
        return np.asarray(1.0 / ranks(above, tied, tied_relevant, ties, by_index), np.float64)
    value = np.asarray(1.0 / (above + 1.0), np.float64)
    rows = np.flatnonzero(tied > tied_relevant)
    if len(rows):
        distinct, inverse = np.unique(np.stack([above, tied, tied_relevant])[:, rows], axis=1, return_inverse=True)
        each = np.array([_mean_reciprocal(*(int(number) for number in column)) for column in distinct.T])
        value[rows] = each[inverse.reshape(-1)]
    return value


def chance_hits(gallery: Ints, relevant: Ints, k: int) -> Floats:
    """Exact probability that a random order has a relevant item among the first k."""
    return 1.0 - _none_in(np.full_like(gallery, k), gallery, relevant)


def chance_reciprocal(gallery: Ints, relevant: Ints) -> float:
    """Exact mean of 1 / rank over random orders."""
    pairs, counts = np.unique(np.stack([gallery, relevant]), axis=1, return_counts=True)
    each = [_mean_reciprocal(0, int(m), int(q)) for m, q in pairs.T]
    return float(np.average(each, weights=counts))


def chance_median(gallery: Ints, relevant: Ints) -> float:
    """Median of the rank that a random order gives to a random query: the first k that half of them reach."""
    low, high = 1, int(gallery.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if chance_hits(gallery, relevant, middle).mean() >= 0.5 else (middle + 1, high)
    return float(low)


def _none_in(open_ranks: Ints, items: Ints, relevant: Ints) -> Floats:
    """Probability that none of `relevant` among `items` in random order is in the first `open_ranks`: C(m-q, r) / C(m, r)."""
    r = np.clip(open_ranks, 0, items).astype(np.float64)
    m, q = items.astype(np.float64), relevant.astype(np.float64)
    possible = r <= m - q
    rest = np.where(possible, m - q - r, 0.0)
    log = gammaln(m - q + 1) - gammaln(rest + 1) - gammaln(m + 1) + gammaln(m - r + 1)
    return np.where(r <= 0, 1.0, np.where(possible, np.exp(np.minimum(log, 0.0)), 0.0))


def _mean_reciprocal(above: int, tied: int, relevant: int) -> float:
    offsets = np.arange(1, tied - relevant + 2)
    before = _none_in(offsets - 1, np.full_like(offsets, tied), np.full_like(offsets, relevant))
    after = _none_in(offsets, np.full_like(offsets, tied), np.full_like(offsets, relevant))
    return float(((before - after) / (above + offsets)).sum())


def _count(score_BM: npt.NDArray[np.float32], relevant_BM: npt.NDArray[np.bool_]) -> tuple[Ints, Floats]:
    best_B1 = np.where(relevant_BM, score_BM, -np.inf).max(axis=1, keepdims=True)
    tied_BM = score_BM == best_B1
    hit_BM = tied_BM & relevant_BM
    relevant, above = relevant_BM.sum(axis=1), (score_BM > best_B1).sum(axis=1)
    tied, tied_relevant = tied_BM.sum(axis=1), hit_BM.sum(axis=1)
    first = hit_BM.argmax(axis=1)
    ahead = (tied_BM & (np.arange(score_BM.shape[1]) < first[:, None])).sum(axis=1)
    lost = relevant == 0  # rank them last: above = M, one tied item, itself
    tied, tied_relevant, ahead = np.where(lost, 1, tied), np.where(lost, 1, tied_relevant), np.where(lost, 0, ahead)
    return np.stack([above, tied, tied_relevant, relevant, above + ahead + 1]), np.where(lost, np.nan, best_B1[:, 0])


def _top(score_BM: npt.NDArray[np.float32], top: int) -> tuple[Ints, Floats]:
    some_BK = np.argpartition(-score_BM, top - 1, axis=1)[:, :top] if top < score_BM.shape[1] else None
    index_BK = np.broadcast_to(np.arange(score_BM.shape[1]), score_BM.shape) if some_BK is None else np.sort(some_BK, axis=1)
    value_BK = np.take_along_axis(score_BM, index_BK, axis=1)
    order_BK = np.argsort(-value_BK, axis=1, kind="stable")
    return np.take_along_axis(index_BK, order_BK, axis=1), np.take_along_axis(value_BK, order_BK, axis=1).astype(np.float64)
