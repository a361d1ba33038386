"""ProtoCLIP's light augmentation: ColorJitter(.8, .8, .8, .2), grey and GaussianBlur(21), each of a fifth of the images."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from diptych.data.media.augment.colour_views import recoloured


def test_brightness_moves_within_the_published_range_in_a_fifth_of_cases() -> None:
    """A flat grey picture shows brightness alone: its contrast is 0, and it has neither saturation nor hue."""
    flat = np.full((32, 32, 3), 100, np.uint8)
    seen = np.array([recoloured(flat, np.random.default_rng(seed))[0, 0, 0] for seed in range(1500)])
    changed = seen[seen != 100]
    assert len(changed) / len(seen) == pytest.approx(0.2, abs=0.03)
    assert 20 <= changed.min() < 26
    assert 174 < changed.max() <= 180


def test_hue_turns_by_a_fifth_at_most_and_colours_go_in_a_fifth_of_cases() -> None:
    red = np.full((32, 32, 3), (160, 60, 60), np.uint8)
    hues, grey = [], 0
    for seed in range(1500):
        pixel = recoloured(red, np.random.default_rng(seed))[0, 0] / 255
        if np.ptp(pixel) <= 1 / 255:
            grey += 1
        elif np.ptp(pixel) > 0.1:
            hues.append((colorsys.rgb_to_hsv(*pixel)[0] + 0.5) % 1 - 0.5)
    assert grey / 1500 == pytest.approx(0.2, abs=0.03)
    assert -0.22 < min(hues) < -0.17
    assert 0.17 < max(hues) < 0.22


def test_blur_spreads_a_point_by_its_deviation() -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    deviations = []
    for seed in range(600):
        seen = recoloured(point, np.random.default_rng(seed), jitter=(0.0, 0.0, 0.0, 0.0))[..., 0].astype(float)
        if seen[20, 20] < 255:
            x = np.arange(41) - 20
            deviations.append(np.sqrt((seen.sum(0) * x**2).sum() / seen.sum()))
    assert len(deviations) / 600 == pytest.approx(0.2 * 0.8, abs=0.06)  # the least deviations leave a point as it is
    assert 1.6 < max(deviations) < 2.1
