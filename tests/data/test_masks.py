"""Run-length codes round-trip and agree with a code worked out by hand; boxes and contact agree with naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import DataError
from diptych.data.masks import box_of, decode, encode, touch

masks = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32)).map(
    lambda t: np.random.default_rng(t[2]).random(t[:2]) < np.random.default_rng(t[2] + 1).random()
)


@settings(max_examples=80, deadline=None)
@given(masks)
def test_codes_round_trip(mask: np.ndarray) -> None:
    assert (decode(encode(mask)) == mask).all()


def test_code_of_a_known_mask() -> None:
    # 3 x 4, columns first: 000 110 011 000 -> runs 3, 2, 2, 2, 3; from the fourth on as differences (2 - 2 = 0, 3 - 2 = 1).
    mask = np.array([[0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0]], bool)
    assert encode(mask) == {"size": [3, 4], "counts": "32201"}
    large = np.zeros((100, 10), bool)
    large[50:, 5:] = True  # runs 550, 50, 50, ...: 550 = 6 + 32 * 17, so two characters
    assert encode(large)["counts"].startswith("Va0")
    assert (decode(encode(large)) == large).all()


def test_a_code_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="expected 5 x 4"):
        decode({"size": [5, 4], "counts": "32201"})


@settings(max_examples=60, deadline=None)
@given(masks)
def test_boxes_are_tight(mask: np.ndarray) -> None:
    points = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    if not points:
        assert box_of(mask) is None
    else:
        xs, ys = zip(*points, strict=True)
        assert box_of(mask) == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_contact_is_chebyshev_distance_of_at_most_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 8, 9)) < 0.06
    pairs = [max(abs(p - r), abs(q - s)) for p, q in np.argwhere(a) for r, s in np.argwhere(b)]
    assert touch(a, b) == (bool(pairs) and min(pairs) <= 1)
