"""Noise on regions: bounds, share of labels, once a region."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.data.graphs.region_noise import RegionNoise


def test_sides_and_centres_move_within_their_bounds_and_reach_them() -> None:
    box = np.tile(np.array([[0.5, 0.4, 0.2, 0.1]], np.float32), (4000, 1))
    moved, label = RegionNoise(box=0.6, label=0.0)(box, np.zeros(4000, np.int64), 5, keyed_rng(0))
    change = moved - box
    for place, most in enumerate((0.06, 0.03, 0.12, 0.06)):
        assert np.abs(change[:, place]).max() == pytest.approx(most, rel=0.02)
        assert np.abs(change[:, place]).max() <= most + 1e-6
        assert change[:, place].mean() == pytest.approx(0, abs=most / 20)
    assert (label == 0).all()
    assert np.abs(np.corrcoef(change.T) - np.eye(4)).max() < 0.06  # each number has a draw of its own


def test_boxes_stay_inside_and_the_input_is_left_alone() -> None:
    box = np.array([[0.0, 1.0, 0.0, 1.0], [0.02, 0.98, 1.0, 1.0]], np.float32)
    before = box.copy()
    for key in range(20):
        moved, _ = RegionNoise(box=0.9)(box, np.zeros(2, np.int64), 1, keyed_rng(key))
        assert moved.min() >= 0
        assert moved.max() <= 1
    np.testing.assert_array_equal(box, before)


def test_a_share_of_labels_becomes_any_label() -> None:
    label = np.full(6000, 2, np.int64)
    _, noisy = RegionNoise(label=0.3)(np.full((6000, 4), 0.5, np.float32), label, 5, keyed_rng(1))
    counts = np.bincount(noisy, minlength=5) / 6000
    np.testing.assert_allclose(counts, [0.06, 0.06, 0.76, 0.06, 0.06], atol=0.015)  # one of five is itself


def test_no_regions_no_labels_and_wrong_options() -> None:
    box, label = RegionNoise()(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0, keyed_rng(0))
    assert box.shape == (0, 4)
    assert label.shape == (0,)
    with pytest.raises(ConfigError, match=r"box 1\.0"):
        RegionNoise(box=1.0)
