"""Order of rows by length and image: indices that the released sampler gave for these permutations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.data.load.length_order import LengthGroupedOrder, grouped_by_length, grouped_by_modality

LENGTHS = [
    *(-76, -57, -46, 25, -28, -4, -7, -2, -16, 73, 58, -82, 45, 54, 87, -65, -57, 49, 50, 84, 25, 73, 60, -1, 36, -77, 50, -3),
    *(-69, 65, -76, 16, 8, 77, 2, -49, 8, 27, 43, 38, 36, 3, 1),
]
DRAWN = {
    "image": [16, 15, 7, 13, 23, 14, 3, 0, 9, 5, 1, 22, 20, 21, 24, 6, 11, 17, 12, 10, 2, 25, 19, 18, 8, 4],
    "text": [2, 6, 16, 4, 8, 1, 10, 5, 14, 12, 3, 15, 0, 9, 11, 7, 13],
    "batches": [3, 2, 0, 4, 5, 1],
}
ALL = [
    *(
        31,
        26,
        32,
        34,
        20,
        36,
        30,
        4,
        39,
        41,
        24,
        21,
        33,
        6,
        42,
        17,
        16,
        29,
        18,
        8,
        14,
        25,
        19,
        35,
        28,
        5,
        3,
        23,
        0,
        1,
        22,
        27,
        11,
    ),
    *(12, 13, 7, 9, 38, 10, 37, 2, 15, 40),
]
"""Permutations that torch drew in the release."""
MIXED = [
    *(
        21,
        36,
        34,
        10,
        24,
        42,
        33,
        38,
        41,
        22,
        17,
        37,
        29,
        40,
        32,
        18,
        26,
        31,
        11,
        2,
        7,
        1,
        35,
        5,
        25,
        16,
        4,
        30,
        28,
        6,
        14,
        39,
        20,
    ),
    *(9, 12, 3, 0, 8, 13, 15, 19, 23, 27),
]
"""`get_modality_length_grouped_indices` of LLaVA at c121f04 for three rows a process and two processes."""
IMAGES = [
    *(30, 4, 31, 34, 21, 24, 32, 41, 26, 39, 20, 36, 14, 16, 18, 8, 19, 29, 17, 6, 33, 25, 35, 42, 11, 13, 5, 27, 0, 1, 3, 7, 28),
    *(22, 12, 23, 9, 2, 37, 15, 38, 10, 40),
]
"""The same for four rows a process and three processes, all rows with images."""


def test_order_is_that_of_the_release(parity: Any) -> None:
    def permutation(name: str, count: int) -> Sequence[int]:
        assert len(DRAWN[name]) == count
        return DRAWN[name]

    mixed = grouped_by_modality(LENGTHS, 3, 2, permutation)
    images = grouped_by_length([abs(length) for length in LENGTHS], 4, 3, ALL)
    pairs = [(np.array(mixed), np.array(MIXED)), (np.array(images), np.array(IMAGES))]
    parity("llava", "rows grouped by image and length", "LengthGroupedSampler of LLaVA at c121f04", pairs, tolerance=0)


def test_every_row_comes_once_an_epoch() -> None:
    order = LengthGroupedOrder(LENGTHS, 3, 2)
    first, second = order(0, 0, 43), order(0, 1, 43)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(43))
    assert first.tolist() != second.tolist()
    steps = first[:36].reshape(6, 6)
    shown = np.array(LENGTHS)[steps] > 0
    assert (shown.all(1) | ~shown.any(1)).all()
    with pytest.raises(ConfigError, match="no length of 0"):
        LengthGroupedOrder([1, 0], 1, 1)
    for members, parts in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="expected 1 or more each"):
            LengthGroupedOrder([1, 2], members, parts)
    assert sorted(LengthGroupedOrder([3, -2, 5], 1, 1)(0, 0, 3).tolist()) == [0, 1, 2], "parts of one row, one a batch"
    with pytest.raises(ConfigError, match="43 lengths for 2 rows"):
        order(0, 0, 2)
