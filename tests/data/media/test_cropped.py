"""Crops of boxes, margins and all."""

from __future__ import annotations

import numpy as np

from diptych.data.media.cropped import crop_of

PIXELS = np.arange(240).reshape(8, 10, 3).astype(np.uint8)


def test_a_margin_is_a_share_of_the_sides_in_whole_pixels() -> None:
    np.testing.assert_array_equal(crop_of(PIXELS, (4, 2, 6, 6)), PIXELS[2:6, 4:6])
    np.testing.assert_array_equal(crop_of(PIXELS, (4, 2, 6, 6), margin=0.1), PIXELS[1:7, 3:7])
    np.testing.assert_array_equal(crop_of(PIXELS, (4, 2, 6, 6), margin=0.5), PIXELS[0:8, 3:7])


def test_crops_stay_inside_the_picture() -> None:
    """Beside the picture lies its nearest pixel."""
    np.testing.assert_array_equal(crop_of(PIXELS, (-5, -5, 99, 99), margin=0.1), PIXELS)
    np.testing.assert_array_equal(crop_of(PIXELS, (20, 20, 22, 22), margin=0.1), PIXELS[7:, 9:])
