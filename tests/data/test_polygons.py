"""Outlines and codes of COCO become the pixels that its own tools make of them."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from diptych.core.errors import DataError
from diptych.data.masks import decode, encode, pixels_of
from diptych.data.polygons import fill_outlines


def theirs(outlines: list[list[float]], height: int, width: int) -> np.ndarray:
    codes = coco.frPyObjects(outlines, height, width)
    return coco.decode(coco.merge(codes)).astype(bool)


def test_outlines_are_drawn_as_coco_draws_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(4, 40, 2)
        outlines = [
            (rng.uniform(-0.2, 1.2, (int(rng.integers(3, 9)), 2)) * [width, height]).ravel().tolist()
            for _ in range(int(rng.integers(1, 4)))
        ]
        assert (fill_outlines(outlines, height, width) == theirs(outlines, height, width)).all(), outlines


def test_outlines_on_the_edge_and_with_a_point_twice() -> None:
    for outline in ([0, 0, 7, 0, 7, 5, 0, 5], [2.5, 1.5, 2.5, 1.5, 6, 1, 4, 4], [1, 1, 5, 1, 1, 1], [3, 0, 3, 5, 4, 5, 4, 0]):
        assert (fill_outlines([outline], 5, 7) == theirs([outline], 5, 7)).all(), outline
    assert fill_outlines([[0, 0, 7, 0, 7, 5, 0, 5]], 5, 7).all()


def test_codes_are_those_of_coco_packed_or_as_runs() -> None:
    mask_HW = np.random.default_rng(1).random((9, 14)) < 0.4
    packed = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    assert packed["counts"].decode() == encode(mask_HW)["counts"]
    assert (decode(packed) == mask_HW).all()
    flat = np.concatenate(([False], mask_HW.ravel(order="F"), [True]))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate(([0], edges, [mask_HW.size])) if edges[-1] != mask_HW.size else np.concatenate(([0], edges)))
    assert (pixels_of({"size": [9, 14], "counts": runs.tolist()}, 9, 14) == mask_HW).all()


def test_refused() -> None:
    with pytest.raises(DataError, match="an outline has 4 numbers"):
        fill_outlines([[0, 0, 3, 3]], 5, 5)
    with pytest.raises(DataError, match="an outline has 7 numbers"):
        fill_outlines([[0, 0, 3, 3, 1, 2, 3]], 5, 5)
    with pytest.raises(DataError, match=r"a mask is \[9, 14\]"):
        pixels_of(encode(np.ones((9, 14), bool)), 9, 15)
    with pytest.raises(DataError, match="a mask is a str"):
        pixels_of("everything", 9, 15)


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        ([[0, 0, 1e12, 0, 3, 3]], "lies far from its image"),
        ([[0, 0, 1e300, 0, 3, 3]], "lies far from its image"),
        ([[-20, -20, 30, 30] * 150_000], "300000 points is too long"),
        ({"size": [7, 9], "counts": None}, "not whole numbers"),
        ({"size": [7, 9], "counts": [1.5, 61.5]}, "not whole numbers"),
        ({"size": [7, 9], "counts": ["63"]}, "not whole numbers"),
        ({"size": [7, 9], "counts": b"\xff"}, "add up to"),
        ({"size": [7, 9], "counts": "o" * 100_000}, "has no end"),
        ({"size": 63, "counts": "P"}, "does not name a size"),
        ({"counts": "P"}, "does not name a size"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "as its image"),
    ],
)
def test_a_mask_that_climbs_is_refused_at_once(mask: object, fault: str) -> None:
    with pytest.raises(DataError, match=fault) as raised:
        pixels_of(mask, 7, 9)
    assert "\n" not in str(raised.value)
