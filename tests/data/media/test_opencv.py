"""Resizing and HSV are OpenCV's own (numbers of cv2 5.0 on random pixels)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.media.opencv import bilinear, fitting_sides, from_hsv, hsv, nearest

THEIRS = json.loads((Path(__file__).parent / "fixtures/opencv_5.json").read_text())


def pixels(values: list[int], height: int, width: int) -> Any:
    return np.array(values, np.uint8).reshape(height, width, -1)


def test_resizing_is_opencvs_to_the_bit(parity: Any) -> None:
    pairs = []
    for case in THEIRS["cases"]:
        image_HWC, (height, width) = pixels(case["image"], *case["size"]), case["to"]
        pairs.append((bilinear(image_HWC, height, width), pixels(case["bilinear"], height, width)))
        pairs.append((nearest(image_HWC[..., 0], height, width)[..., None], pixels(case["nearest"], height, width)))
    for slug in ("denseclip", "xclip"):
        parity(slug, "pictures and label maps, resized", "OpenCV 5.0", pairs, tolerance=0)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_resizing_is_the_plain_rule_within_a_level() -> None:
    """By hand in floats, pixel by pixel; and what is shrunk by four is not smoothed."""
    image_HWC = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    found = bilinear(image_HWC, 3, 7).astype(float)
    for row in range(3):
        for column in range(7):
            y, x = (row + 0.5) * 12 / 3 - 0.5, (column + 0.5) * 20 / 7 - 0.5
            top, left = int(np.floor(y)), int(np.floor(x))
            corner = {(a, b): image_HWC[top + a, left + b].astype(float) for a in (0, 1) for b in (0, 1)}
            down, right = y - top, x - left
            mean = (1 - down) * ((1 - right) * corner[0, 0] + right * corner[0, 1])
            mean = mean + down * ((1 - right) * corner[1, 0] + right * corner[1, 1])
            assert np.abs(found[row, column] - mean).max() <= 1
    stripes_HWC = np.repeat(np.tile(np.array([0, 255, 255, 0], np.uint8), 8)[None, :, None], 4, 0) * np.ones((1, 1, 3), np.uint8)
    assert (bilinear(stripes_HWC, 1, 8) == 255).all()


def test_colours_are_opencvs() -> None:
    image_HWC, hsv_HWC = (pixels(THEIRS[name], 4, 16) for name in ("rgb", "hsv"))
    np.testing.assert_array_equal(hsv(image_HWC), hsv_HWC)
    back_HWC = from_hsv(hsv_HWC)
    assert np.abs(back_HWC.astype(int) - pixels(THEIRS["back"], 4, 16)).max() <= 1
    grey_HWC = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    np.testing.assert_allclose(from_hsv(hsv(grey_HWC)), grey_HWC, atol=1)


def test_sides_that_fit() -> None:
    assert fitting_sides(480, 640, 512, 2048) == (512, 683)
    assert fitting_sides(100, 900, 512, 2048) == (228, 2048), "a long picture is bounded by its long side"
