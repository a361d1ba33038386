"""Views that know where they lie: a picture of its own coordinates shows whether they are right."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from diptych.core.contracts import Draw
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.load.batch import view
from diptych.data.media.augment.views import View, patches_in, placed_view

SIDE, SIZE = 8, 64


def coordinates(height: int = 180, width: int = 240) -> np.ndarray:
    """Red says how far down a pixel is, green how far to the right."""
    y, x = np.linspace(0, 240, height), np.linspace(0, 240, width)
    return np.stack((*np.meshgrid(y, x, indexing="ij"), np.zeros((height, width))), 2).round().astype(np.uint8)


def draw(key: int, image: np.ndarray) -> Draw:
    return Draw(Sample(f"u{key}"), keyed_rng(key), image)


def at(seen: View, x: float, y: float) -> np.ndarray:
    """Red and green of a view at a place from 0 to 1, between its pixels."""
    size = seen.image_HWC.shape[0]
    row, column = np.clip(y * size - 0.5, 0, size - 1), np.clip(x * size - 0.5, 0, size - 1)
    top, left = min(int(row), size - 2), min(int(column), size - 2)
    down, right = row - top, column - left
    part = seen.image_HWC[top : top + 2, left : left + 2, :2].astype(float)
    return (part[0] * (1 - down) + part[1] * down)[0] * (1 - right) + (part[0] * (1 - down) + part[1] * down)[1] * right


@pytest.mark.parametrize("key", range(12))
def test_a_patch_and_its_place_in_the_other_view_show_the_same(key: int) -> None:
    chance = draw(key, coordinates())
    one, other = (placed_view(chance, SIZE, (0.2, 0.8), True) for _ in range(2))
    assert one.box != other.box
    box_P4 = patches_in(other, one, SIDE)
    shown = 0
    for place, (x, y, wide, tall) in enumerate(box_P4.tolist()):
        row, column = divmod(place, SIDE)
        if not (0.05 < x < 0.95 and 0.05 < y < 0.95):
            continue
        shown += 1
        wanted = at(other, (column + 0.5) / SIDE, (row + 0.5) / SIDE)
        assert at(one, x, y) == pytest.approx(wanted, abs=1.5)
        assert wide * one.box[3] == pytest.approx(other.box[3] / SIDE, rel=1e-5)
        assert tall * one.box[2] == pytest.approx(other.box[2] / SIDE, rel=1e-5)
    assert shown > 0 or not overlap(one, other)


def overlap(one: View, other: View) -> bool:
    spans = [(sorted((a.box[i], a.box[i] + a.box[i + 2]) for a in (one, other))) for i in (0, 1)]
    return all(right[0] < left[1] for left, right in map(tuple, spans))


def test_a_view_lies_in_itself_on_its_own_grid_mirrored_or_not() -> None:
    for mirrored in (False, True):
        here = View(coordinates(), (10, 20, 90, 60), mirrored)
        box_P4 = patches_in(here, here, 4)
        grid = [((column + 0.5) / 4, (row + 0.5) / 4, 0.25, 0.25) for row in range(4) for column in range(4)]
        torch.testing.assert_close(box_P4, torch.tensor(grid))
    facing = patches_in(View(coordinates(), (0, 0, 4, 4), True), View(coordinates(), (0, 0, 4, 4), False), 4)
    assert all(one > other for one, other in pairwise(facing[:4, 0].tolist()))


@pytest.mark.parametrize(("crop", "flip"), [((0.2, 0.9), True), ((0.5, 0.9), False), ((1.0, 1.0), True), ((1.0, 1.0), False)])
def test_it_is_the_view_that_other_recipes_see(crop: tuple[float, float], flip: bool) -> None:
    for key in range(5):
        plain, placed = draw(key, coordinates()), draw(key, coordinates())
        assert np.array_equal(view(plain, SIZE, crop, flip), placed_view(placed, SIZE, crop, flip).image_HWC)
        assert plain.rng.random() == placed.rng.random()
