"""Tie arithmetic against all orders written out, ranks against a sort."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.tasks._scoring.ranking import ranks as rk


def counts(scores: list[float], relevant: list[bool]) -> tuple[np.ndarray, ...]:
    """above, tied, tied_relevant, by_index of one query, by plain loops."""
    best = max(s for s, r in zip(scores, relevant, strict=True) if r)
    above = sum(s > best for s in scores)
    tied = [r for s, r in zip(scores, relevant, strict=True) if s == best]
    return tuple(np.array([v]) for v in (above, len(tied), sum(tied), above + tied.index(True) + 1))


def orders(scores: list[float], relevant: list[bool]) -> list[int]:
    """Rank of the first relevant item in every order that sorts the scores."""
    ranks = []
    for order in permutations(range(len(scores))):
        row = [scores[i] for i in order]
        if all(a >= b for a, b in pairwise(row)):
            ranks.append(next(place for place, i in enumerate(order, start=1) if relevant[i]))
    return ranks


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=6), st.integers(1, 7))
def test_policies_against_every_order(items: list[tuple[float, bool]], k: int) -> None:
    scores, relevant = [s for s, _ in items], [r for _, r in items]
    relevant[0] = True
    above, tied, tied_relevant, by_index = counts(scores, relevant)
    every = np.array(orders(scores, relevant))

    def hit(ties: rk.Ties) -> float:
        return float(rk.hits(above, tied, tied_relevant, k, ties, by_index)[0])

    def rank(ties: rk.Ties) -> float:
        return float(rk.ranks(above, tied, tied_relevant, ties, by_index)[0])

    assert hit("expected") == pytest.approx((every <= k).mean())
    assert hit("pessimistic") == (every <= k).min()
    assert hit("optimistic") == (every <= k).max()
    assert rank("expected") == pytest.approx(every.mean())
    assert (rank("optimistic"), rank("pessimistic")) == (every.min(), every.max())
    assert rk.reciprocal_ranks(above, tied, tied_relevant, "expected", by_index)[0] == pytest.approx((1 / every).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 7))
def test_chance_against_every_order(gallery: int, relevant: int, k: int) -> None:
    relevant = min(gallery, relevant)
    every = np.array(orders([0.0] * gallery, [i < relevant for i in range(gallery)]))
    n, r = np.array([gallery]), np.array([relevant])
    assert rk.chance_hits(n, r, k)[0] == pytest.approx((every <= k).mean())
    assert rk.chance_reciprocal(n, r) == pytest.approx((1 / every).mean())
    assert rk.chance_median(n, r) == next(k for k in range(1, gallery + 1) if (every <= k).mean() >= 0.5 - 1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30))
def test_rank_against_plain_loops(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    query, gallery = rng.integers(-1, 2, (7, 3)), rng.integers(-1, 2, (m, 3))  # many ties
    query_key, gallery_key = rng.integers(0, 4, 7), rng.integers(0, 4, m)
    found = rk.rank(query, rk.cosine(gallery), query_key, gallery_key)
    scores = query @ gallery.T
    for row in range(7):
        relevant = (gallery_key == query_key[row]).tolist()
        assert found.relevant[row] == sum(relevant)
        if not any(relevant):
            assert found.above[row] == m
            continue
        want = [int(v[0]) for v in counts(scores[row].tolist(), relevant)]
        assert [found.above[row], found.tied[row], found.tied_relevant[row], found.by_index[row]] == want
        assert found.top_score_NK[row].tolist() == sorted(scores[row].tolist(), reverse=True)[:5]
        assert scores[row, found.top_NK[row]].tolist() == found.top_score_NK[row].tolist()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    query, gallery, keys = rng.standard_normal((50, 8)), rng.standard_normal((40, 8)), rng.integers(0, 40, 50)
    whole = rk.rank(query, rk.cosine(gallery), keys, np.arange(40))
    monkeypatch.setattr(rk, "CELLS", 90)  # two queries at a time
    parts = rk.rank(query, rk.cosine(gallery), keys, np.arange(40))
    for name in ("above", "tied", "by_index", "best", "top_NK"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_equal_embeddings_tie_wherever_they_stand() -> None:
    """In single precision the same row can score differently at the edge of a block of the matrix product."""
    rng = np.random.default_rng(2)
    row = rng.standard_normal(384).astype(np.float32)
    gallery = np.repeat((row / np.linalg.norm(row))[None], 1003, axis=0)
    query = rng.standard_normal((33, 384)).astype(np.float32)
    assert (rk.rank(query, rk.cosine(gallery), np.arange(33), np.arange(1003)).tied == 1003).all()


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="ties is 'best'"):
        rk.check_ties("best")
