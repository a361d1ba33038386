"""Average precision, its trapezoid form and the rank of the last match with tied scores: means over every order, written out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.tasks._scoring.chest_metrics import auroc
from diptych.tasks._scoring.ranking.class_lists import knn_hits
from diptych.tasks._scoring.ranking.ranked_lists import RankedList, chance

GALLERY = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=6)


def average_precision(hits: list[bool]) -> float:
    return float(np.mean([sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]))


def trapezoid_precision(hits: list[bool]) -> float:
    """Each precision averaged with that of the items before it."""
    shares = [1.0, *(sum(hits[: place + 1]) / (place + 1) for place in range(len(hits)))]
    return float(np.mean([(shares[place] + shares[place + 1]) / 2 for place, hit in enumerate(hits) if hit]))


def inverse_last(hits: list[bool]) -> float:
    return sum(hits) / (max(place for place, hit in enumerate(hits) if hit) + 1)


def mean_over_orders(items: list[tuple[float, bool]], value: Callable[[list[bool]], float]) -> float:
    """Mean over every order of the items in which scores do not rise."""
    orders = [order for order in permutations(items) if all(a[0] >= b[0] for a, b in pairwise(order))]
    return float(np.mean([value([hit for _, hit in order]) for order in orders]))


def ranked(items: list[tuple[float, bool]]) -> RankedList:
    return RankedList.of(np.array([score for score, _ in items], np.float32), np.array([hit for _, hit in items]))


@settings(max_examples=60, deadline=None)
@given(GALLERY, st.integers(0, 5))
def test_values_are_means_over_every_order(items: list[tuple[float, bool]], matched: int) -> None:
    items[matched % len(items)] = (items[matched % len(items)][0], True)
    found = ranked(items)
    assert found.average_precision == pytest.approx(mean_over_orders(items, average_precision))
    assert found.trapezoid_precision == pytest.approx(mean_over_orders(items, trapezoid_precision))
    assert found.inverse_last == pytest.approx(mean_over_orders(items, inverse_last))
    assert ranked(items[::-1]) == found, "the order of the gallery decided"


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_chance_is_the_mean_over_every_order(gallery: int, relevant: int) -> None:
    relevant = min(gallery, relevant)
    items = [(0.0, place < relevant) for place in range(gallery)]
    expected = mean_over_orders(items, average_precision), mean_over_orders(items, inverse_last)
    assert chance([gallery], [relevant]) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(GALLERY.filter(lambda items: len({hit for _, hit in items}) == 2))
def test_a_tie_counts_half_in_auroc(items: list[tuple[float, bool]]) -> None:
    pairs = [(float(a > b) + float(a >= b)) / 2 for a, hit in items if hit for b, other in items if not other]
    scores, truths = np.array([score for score, _ in items]), np.array([hit for _, hit in items])
    assert auroc(scores, truths) == pytest.approx(np.mean(pairs))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_nearest_neighbours_of_equal_score_come_in_the_order_of_rows(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    query_ND, gallery_GD = rng.integers(-1, 2, (4, 2)).astype(float), rng.integers(-1, 2, (9, 2)).astype(float)
    label_N, label_G = rng.integers(0, 3, 4), rng.integers(0, 3, 9)
    expected = []
    for row, query_D in enumerate(query_ND):
        order = sorted(range(9), key=lambda item: (-float(gallery_GD[item] @ query_D), item))[:k]
        expected.append([bool(label_G[item] == label_N[row]) for item in order])
    assert knn_hits(query_ND, gallery_GD, label_N, label_G, k).tolist() == expected
