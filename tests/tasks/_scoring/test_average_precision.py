"""Orders and curves that all relation protocols share, against the plain way to get them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.tasks._scoring.detection.average_precision import best_first, by_class

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
