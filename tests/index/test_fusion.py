"""Fusion of rankings on made-up lists: exact sums in fractions, what must not change the order, and what must."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.index.fusion import RRF_K, RULES, Ranking, Rule, fuse, reciprocal_rank, weighted_scores

QUICK = settings(max_examples=60, deadline=None)
SCORES = st.integers(-8, 8).map(lambda number: number / 4)  # quarters: many ties, and sums without rounding
RANKINGS = st.lists(st.dictionaries(st.sampled_from("abcdef"), SCORES, max_size=6), min_size=1, max_size=3).map(
    lambda lists: [sorted(scores.items(), key=lambda pair: -pair[1]) for scores in lists]
)
WEIGHTS = st.sampled_from([(1.0, 1.0, 1.0), (0.25, 0.75, 0.5), (1.0, 0.0, 0.5)])


def by_hand(rule: Rule, rankings: list[Ranking[str]], weights: tuple[float, ...]) -> dict[str, Fraction]:
    """Total of each item, in exact fractions."""
    totals: dict[str, Fraction] = {}
    for ranking, weight in zip(rankings, weights, strict=False):
        scores = [Fraction(score) for _, score in ranking]
        for rank, (key, score) in enumerate(ranking, start=1):
            share = (Fraction(score) - min(scores)) / (max(scores) - min(scores)) if len(set(scores)) > 1 else Fraction(1)
            part = Fraction(1, 60 + rank) if rule == "rrf" else share
            totals[key] = totals.get(key, Fraction(0)) + Fraction(weight) * part
    return totals


@QUICK
@given(RANKINGS, WEIGHTS, st.sampled_from(RULES))
def test_totals_are_the_exact_sums_and_come_best_first(
    rankings: list[Ranking[str]], weights: tuple[float, ...], rule: Rule
) -> None:
    fused = fuse(rule, rankings, weights[: len(rankings)])
    assert dict(fused) == pytest.approx({key: float(total) for key, total in by_hand(rule, rankings, weights).items()})
    assert list(fused.values()) == sorted(fused.values(), reverse=True)


@QUICK
@given(RANKINGS, WEIGHTS, st.sampled_from(RULES))
def test_equal_totals_keep_the_order_of_first_appearance(
    rankings: list[Ranking[str]], weights: tuple[float, ...], rule: Rule
) -> None:
    fused = fuse(rule, rankings, weights[: len(rankings)])
    appeared = list(dict.fromkeys(key for ranking in rankings for key, _ in ranking))
    assert list(fused) == sorted(appeared, key=lambda key: (-fused[key], appeared.index(key)))


@QUICK
@given(RANKINGS, WEIGHTS, st.sampled_from([0.5, 4.0]), st.sampled_from([-3.0, 8.0]))
def test_the_scale_of_a_list_changes_nothing(
    rankings: list[Ranking[str]], weights: tuple[float, ...], factor: float, shift: float
) -> None:
    weights = weights[: len(rankings)]
    moved = [[(key, factor * score + shift) for key, score in rankings[0]], *rankings[1:]]
    for rule in RULES:
        assert dict(fuse(rule, moved, weights)) == pytest.approx(dict(fuse(rule, rankings, weights)))


@QUICK
@given(RANKINGS, WEIGHTS)
def test_the_order_of_the_lists_changes_no_total(rankings: list[Ranking[str]], weights: tuple[float, ...]) -> None:
    weights = weights[: len(rankings)]
    for total in (reciprocal_rank, weighted_scores):
        assert total(rankings[::-1], weights[::-1]) == pytest.approx(total(rankings, weights))


@QUICK
@given(st.lists(st.permutations("abcde"), min_size=1, max_size=3), st.integers(1, 4))
def test_an_item_that_moves_up_gains_and_the_one_it_passes_loses(orders: list[list[str]], place: int) -> None:
    rankings = [[(key, 0.0) for key in order] for order in orders]
    up, down = orders[0][place], orders[0][place - 1]
    first = [*rankings[0][: place - 1], (up, 0.0), (down, 0.0), *rankings[0][place + 1 :]]
    weights = [1.0] * len(orders)
    before, after = reciprocal_rank(rankings, weights), reciprocal_rank([first, *rankings[1:]], weights)
    assert after[up] > before[up]
    assert after[down] < before[down]
    assert {key: after[key] for key in after if key not in (up, down)} == {
        key: before[key] for key in before if key not in (up, down)
    }


def test_agreement_counts_more_than_one_first_place() -> None:
    """Second place in two lists beats first place in one."""
    rankings = [[("a", 3.0), ("b", 2.0)], [("c", 3.0), ("b", 2.0)]]
    assert list(fuse("rrf", rankings, [1.0, 1.0])) == ["b", "a", "c"]
    assert fuse("rrf", rankings, [1.0, 1.0])["b"] == pytest.approx(2 / (RRF_K + 2))
