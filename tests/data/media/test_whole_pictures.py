"""Pictures in their own shape: the sizes of the released code, padding, and which patches are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.errors import ConfigError
from diptych.data.media.whole_pictures import WholePictures, drawn_patches

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "ptp" / "ptp_vilt_released.npz"


def test_sizes_are_the_released_ones(parity: Any) -> None:
    t = np.load(RELEASED)
    ours = np.array([WholePictures().sides(height, width)[::-1] for width, height in t["sizes"].tolist()])
    assert len(ours) > 40
    parity(
        "ptp",
        "sizes of pictures in their own shape",
        "dandelin/ViLT 762fd39, transforms/utils.py",
        [(ours, t["fitted"])],
        tolerance=0,
    )


def test_a_very_long_picture_keeps_a_patch() -> None:
    assert WholePictures().sides(10, 1000) == (32, 608)
    assert WholePictures(64, longest=200, stride=16).sides(30, 90) == (64, 192)


def test_padding_is_zero_and_counted() -> None:
    white, tall = np.full((40, 80, 3), 255, np.uint8), np.full((80, 40, 3), 255, np.uint8)
    image_BCHW, grid_B2 = WholePictures(32, 64, 16)([white, tall])
    assert image_BCHW.shape == (2, 3, 64, 64)
    assert grid_B2.tolist() == [[2, 4], [4, 2]]
    assert (image_BCHW[0, :, :32] == 1).all()
    assert (image_BCHW[0, :, 32:] == 0).all()
    assert (image_BCHW[1, :, :, 32:] == 0).all()


def test_it_comes_back_and_refuses() -> None:
    made = WholePictures(64, 100, 16, interpolation="bilinear")
    assert WholePictures.from_json(made.to_json()) == made
    for wrong in ({"size": 16}, {"longest": 100}, {"interpolation": "nearest"}):
        with pytest.raises(ConfigError, match="expected"):
            WholePictures(**wrong)  # type: ignore[arg-type]


def test_patches_are_drawn_without_repetition_where_there_are_too_many() -> None:
    grid_B2 = torch.tensor([[3, 4], [2, 2]])
    rngs = [np.random.default_rng(seed) for seed in (0, 1)]
    (first, second), there = drawn_patches(grid_B2, 5, rngs, most=6, times=2)
    assert first.shape == (2, 6)
    assert there.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert not torch.equal(first[0], second[0])
    for drawn in (first, second):
        assert len(set(drawn[0].tolist())) == 6
        assert all(place // 5 < 3 and place % 5 < 4 for place in drawn[0].tolist())
        assert drawn[1].tolist() == [0, 1, 5, 6, 0, 0]
    (every,), there = drawn_patches(grid_B2, 5, rngs, most=0, times=1)
    assert every[0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]
    assert there.sum(1).tolist() == [12, 4]
    often = np.zeros(12)
    for seed in range(300):
        (places,), _ = drawn_patches(grid_B2[:1], 4, [np.random.default_rng(seed)], most=6, times=1)
        often[places[0]] += 1
    assert np.abs(often / 300 - 0.5).max() < 0.12
