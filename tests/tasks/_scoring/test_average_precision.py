"""Orders and curves that all relation protocols share, against the plain way to get them."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.tasks._scoring.detection.average_precision import (
    PrecisionRecallCurves,
    best_first,
    by_class,
    first_claims,
    mean_average_precision,
)
from diptych.tasks._scoring.intervals import group_weights, percentiles

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 0.5, 0.5 + 2**-53, 5e-324, -5e-324, 1e300]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), NUMBERS), max_size=30))
def test_order_by_class_and_falling_score_is_that_of_a_stable_sort(rows: list[tuple[int, float]]) -> None:
    kind, score = np.array([k for k, _ in rows], np.int64), np.array([s for _, s in rows], np.float64)
    assert by_class(kind, score).tolist() == sorted(range(len(rows)), key=lambda n: (kind[n], -score[n]))
    assert best_first(score).tolist() == sorted(range(len(rows)), key=lambda n: -score[n])


@pytest.mark.parametrize("classes", [1, 600, 1 << 40])
def test_order_of_many_rows_with_neighbours_that_differ_in_their_last_bit(classes: int) -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, 50, 20_000) / 64 + rng.integers(0, 3, 20_000) * 2.0**-53
    kind = rng.integers(0, classes, 20_000)
    np.testing.assert_array_equal(by_class(kind, score), np.lexsort((-score, kind)))


Row = tuple[bool, int, int, int]
"""Hit, score, class, group."""
CLASSES, GROUPS = 3, 3
ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, CLASSES - 1), st.integers(0, GROUPS - 1)), max_size=25)


def with_misses(rows: list[Row], more: int) -> list[Row]:
    """True instances as rows: every hit is one, and in each group the first class has `more` that nothing found."""
    return [row for row in rows if row[0]] + [(True, 0, 0, group) for group in range(GROUPS)] * more


def by_definition(rows: list[Row], positives: int, *, rule: str, ties: str, float_recall: bool) -> float:
    """The average precision of one class in fractions."""
    if not positives:
        return float("nan")
    ranked = sorted(rows, key=lambda row: -row[1])
    blocks = (
        [list(block) for _, block in groupby(ranked, key=lambda row: row[1])] if ties == "together" else [[r] for r in ranked]
    )
    points, found, seen = [(0, Fraction(0))], 0, 0
    for block in blocks:
        found, seen = found + sum(row[0] for row in block), seen + len(block)
        points.append((found, Fraction(found, seen)))
    if rule == "area":
        return float(sum(max(p for f, p in points if f > hits) for hits in range(found)) / Fraction(positives))
    reached = [
        [p for f, p in points if (f / positives >= tenth * 0.1 if float_recall else 10 * f >= tenth * positives)]
        for tenth in range(11)
    ]
    return float(sum((max(values, default=Fraction(0)) for values in reached), Fraction(0)) / 11)


def curves(rows: list[Row], truth: list[Row], ties: Any = "together") -> PrecisionRecallCurves:
    hit, score, kind, group = (np.array([row[n] for row in rows], t) for n, t in enumerate((bool, float, np.int64, np.int64)))
    names = {"truth_class": np.array([row[2] for row in truth], int), "truth_group": np.array([row[3] for row in truth], int)}
    return PrecisionRecallCurves.of(hit, score, kind, group, **names, classes=CLASSES, groups=GROUPS, ties=ties)


@pytest.mark.parametrize(("rule", "float_recall"), [("area", False), ("11-point", False), ("11-point", True)])
@pytest.mark.parametrize("ties", ["together", "index"])
@settings(max_examples=25, deadline=None)
@given(ROWS, st.integers(0, 2), st.tuples(*[st.integers(0, 3)] * GROUPS))
def test_precision_by_its_definition(
    rule: Any, float_recall: bool, ties: str, rows: list[Row], more: int, often: tuple[int, ...]
) -> None:
    """A draw that holds a group n times is the data with that group n times."""
    truth = with_misses(rows, more)
    both = curves(rows, truth, ties)
    for weight_DC, counts in ((None, (1,) * GROUPS), (np.array([often], float), often)):
        found_1K = both.average_precision(rule, weight_DC=weight_DC, float_recall=float_recall)
        for kind in range(CLASSES):
            mine, theirs = ([row for row in of for _ in range(counts[row[3]]) if row[2] == kind] for of in (rows, truth))
            wanted = by_definition(mine, len(theirs), rule=rule, ties=ties, float_recall=float_recall)
            assert found_1K[0, kind] == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    alike = [(row[1:3]) for row in rows]
    assert both.share_tied == pytest.approx(sum(alike.count(pair) > 1 for pair in alike) / max(1, len(rows)))


def test_means_over_classes_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    rows: list[Row] = [(bool(rng.random() < 0.4), int(rng.integers(9)), int(rng.integers(2)), n % GROUPS) for n in range(60)]
    both = curves(rows, with_misses(rows, 1))  # no instance of the third class
    parts = {"all": np.array([True] * 3), "first": np.array([True, False, False]), "third": np.array([False, False, True])}
    found, ap_K = mean_average_precision(both, parts, rule="area", draws=30, seed=4)
    (weight_DC,) = group_weights(GROUPS, 30, 4, 60)
    drawn_DK = both.average_precision("area", weight_DC=weight_DC)
    assert ap_K == pytest.approx(both.average_precision("area")[0], nan_ok=True)
    assert np.isnan(ap_K).tolist() == [False, False, True]
    assert found["all"].value == pytest.approx(ap_K[:2].mean())
    assert (found["all"].low, found["all"].high) == pytest.approx(percentiles(drawn_DK[:, :2].mean(1)))
    assert (found["first"].low, found["first"].high) == pytest.approx(percentiles(drawn_DK[:, 0]))
    assert np.isnan(found["third"].value)
    zero, _ = mean_average_precision(both, parts, rule="area", draws=0, seed=4, absent_is_zero=True)
    assert zero["all"].value == pytest.approx(ap_K[:2].sum() / 3)
    assert zero["third"].value == 0
    assert np.isnan(zero["all"].low)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 3)), max_size=20))
def test_the_best_scored_claim_of_a_truth_is_its_hit(rows: list[tuple[int, int]]) -> None:
    first: dict[int, int] = {}
    for row in sorted(range(len(rows)), key=lambda row: -rows[row][1]):
        first.setdefault(rows[row][0], row)
    claimed, score = np.array([c for c, _ in rows], int), np.array([s for _, s in rows], float)
    assert np.flatnonzero(first_claims(claimed, score)).tolist() == sorted(row for truth, row in first.items() if truth >= 0)
