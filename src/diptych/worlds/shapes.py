"""Plain shapes as masks, for worlds whose pictures are small: circle, square, triangle and cross."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def mask_of(shape: str, y: Any, x: Any, *, radius: float, side: float, arm: float) -> npt.NDArray[np.bool_]:
    """bool [H, W] mask of a shape.

    y, x    distances of rows [H, 1] and columns [1, W] to the middle, in the unit of the sizes
    radius  of the circle; half the height of the triangle, half the length of the cross
    side    half of the square's
    arm     half the width of the cross's arms
    """
    mask: npt.NDArray[np.bool_]
    if shape == "circle":
        mask = y**2 + x**2 <= radius**2
    elif shape == "square":
        mask = (abs(y) <= side) & (abs(x) <= side)
    elif shape == "triangle":
        mask = (abs(y) <= radius) & (2 * abs(x) <= y + radius)
    elif shape == "cross":
        mask = ((abs(y) <= arm) & (abs(x) <= radius)) | ((abs(x) <= arm) & (abs(y) <= radius))
    else:
        raise ValueError(f"no shape {shape!r} (expected circle, square, triangle or cross)")
    return mask
