"""The prompt moves with the crop: whatever is done to a picture, the block that is named is the one that shows the thing."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.media.augment import boxed_views as views
from diptych.data.text.prompts.position_prompts import append_prompt, append_prompt_uncut, block_of, prompt

SIDE = 96
GROUND, THING = (20, 40, 60), (250, 240, 10)


def drawn(box: tuple[int, int, int, int]) -> views.Boxed:
    pixels = np.full((SIDE, SIDE, 3), GROUND, np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = THING
    return pixels, tuple(map(float, box))


def seen(picture: Any) -> tuple[float, float, float, float] | None:
    """Where the thing is, by its pixels alone: those of which it covers more than a fifth.

    Red less blue is 240 of the thing, -40 of the ground and 0 of the grey beside a picture that was moved. A share, for the corner of a
    thing that is sheared and cut by the border is a sliver: more than half of a pixel is covered only several pixels from its end.
    """
    covered_HW = (picture[..., 0].astype(int) - picture[..., 2] + 40) / 280
    shown = covered_HW > 0.2
    if shown.sum() < 12:
        return None
    ys, xs = np.nonzero(shown)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


boxes = st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(10, 40), st.integers(10, 40)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], SIDE), min(b[1] + b[3], SIDE))
)


@settings(max_examples=150, deadline=None)
@given(box=boxes, seed=st.integers(0, 10_000), low=st.sampled_from([0.2, 0.5, 1.0]))
def test_the_prompt_moves_with_crop_and_flip(box: tuple[int, int, int, int], seed: int, low: float) -> None:
    rng = np.random.default_rng(seed)
    image, found = views.cropped(drawn(box), 64, rng, (low, 1.0))
    if seed % 2:
        image, found = views.mirrored((image, found))
    there = seen(image)
    if there is None:
        return  # what is left of the thing is too little to be found by its pixels
    assert found is not None
    assert np.abs(np.array(found) - there).max() <= 1.5
    by_pixels, by_box = block_of(there, 64, 64), block_of(found, 64, 64)
    centre = np.array([(there[0] + there[2]) / 2, (there[1] + there[3]) / 2]) * 3 / 64
    if np.abs(centre - centre.round()).min() > 0.1:  # not on the border of two blocks
        assert by_pixels == by_box


@settings(max_examples=100, deadline=None)
@given(box=boxes, seed=st.integers(0, 10_000), which=st.integers(5, 9), level=st.sampled_from([0.5, 1.0]))
def test_the_box_moves_with_shear_shift_and_turn(box: tuple[int, int, int, int], seed: int, which: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    image, found = views.OPERATIONS[which](drawn(box), rng, level)
    there = seen(image)
    if there is None:
        return
    assert found is not None
    assert np.abs(np.array(found) - there).max() <= 2.0


def test_a_thing_that_is_cut_away_is_nowhere() -> None:
    picture = drawn((0, 0, 12, 12))
    for seed in range(50):
        image, found = views.cropped(picture, 64, np.random.default_rng(seed), (0.2, 0.3))
        assert (found is None) == (seen(image) is None) or found is None or min(found[2] - found[0], found[3] - found[1]) < 8


@pytest.mark.parametrize("column", [0, 1, 2])
def test_corners_centre_and_flip(column: int, parity: Any) -> None:
    """Block of every cell of nine, and column c -> 2 - c under a flip."""
    ours, theirs = [], []
    for row in range(3):
        box = (column * 32 + 6, row * 32 + 6, column * 32 + 26, row * 32 + 26)
        image, found = drawn(box)
        assert found is not None
        ours.append(block_of(found, SIDE, SIDE))
        theirs.append(3 * row + column)
        _, turned = views.mirrored((image, found))
        assert turned is not None
        ours.append(block_of(turned, SIDE, SIDE))
        theirs.append(3 * row + 2 - column)
    parity("ptp", "blocks of nine cells, and of nine flipped", "counting by hand", [(ours, theirs)], tolerance=0)


RELEASED = Path(__file__).parents[3] / "parity" / "released" / "ptp" / "ptp_released.npz"


def test_blocks_and_texts_are_those_of_both_released_loaders(parity: Any) -> None:
    theirs = np.load(RELEASED)
    width, height = (int(side) for side in theirs["size"])
    ours = [block_of(tuple(box), width, height) for box in theirs["box"].tolist()]
    pairs = [(ours, theirs["block"]), (ours, theirs["drawn_block"])]
    parity("ptp", "blocks of boxes", "sail-sg/ptp 298b60a, both loaders", pairs, tolerance=0)
    captions = ["A man, (left) rides: a bike!", "word " * 40, "Two cups."]
    said = [prompt(block, "dining table") for block in (4, 0, None)]
    made = [
        [zlib.crc32(join(caption, words).encode()) for join in (append_prompt, append_prompt_uncut)]
        for caption, words in zip(captions, said, strict=True)
    ]
    parity("ptp", "captions with prompts", "sail-sg/ptp 298b60a, both loaders", [(made, theirs["texts"])], tolerance=0)
