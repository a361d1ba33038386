"""Rasterisation of polygons by COCO's rule, so that areas and overlaps agree with its own tools.

An outline is a flat list x0, y0, x1, y1, ... in pixels, 0 at the outer corner of the first pixel. It is followed on a grid five times as
fine; where it crosses the middle of a column of pixels, everything below changes sides. Other rules (a pixel belongs to what covers its
centre, as PIL and OpenCV draw) differ along every edge.

Letters: H W pixels, N crossings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError

FINER = 5
BEYOND, WALK = 4, 50_000_000
"""How far an outline may leave its image, in sides of it, and how many points of the fine grid it may pass: what a file says is not
followed further."""


def fill_outlines(outlines: Sequence[Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    """bool [H, W]: pixels within any of the outlines. Raises DataError for one of fewer than three points, far from its image
    or without an end."""
    mask_HW = np.zeros((height, width), bool)
    for outline in outlines:
        mask_HW |= _fill_outline(_points(outline), height, width)
    return mask_HW


def _points(outline: Any) -> npt.NDArray[np.float64]:
    try:
        flat = np.asarray(outline, np.float64)
    except (TypeError, ValueError):
        flat = np.zeros(0)
    if flat.ndim != 1 or len(flat) < 6 or len(flat) % 2 or not np.isfinite(flat).all():
        problem = f"an outline has {len(flat)} numbers" if flat.ndim == 1 else "an outline is not a flat list"
        raise DataError(problem, field="mask", expected="x0, y0, x1, y1, ... of three points or more")
    return flat.reshape(-1, 2)


def _fill_outline(point_N2: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.bool_]:
    if (np.abs(point_N2) > BEYOND * max(height, width, 1)).any():
        raise DataError("an outline lies far from its image", field="mask", expected=f"points within {height} x {width} pixels")
    fine_N2 = (FINER * point_N2 + 0.5).astype(np.int64)
    if np.abs(fine_N2 - np.roll(fine_N2, -1, axis=0)).max(1).sum() > WALK:
        raise DataError(
            f"an outline of {len(point_N2)} points is too long", field="mask", expected=f"at most {WALK // FINER} pixels"
        )
    parts = [_edge(one, other) for one, other in zip(fine_N2, np.roll(fine_N2, -1, axis=0), strict=True)]
    x_N, y_N = np.concatenate(parts, axis=1)
    before, after = slice(None, -1), slice(1, None)
    crossed_N = x_N[after] != x_N[before]
    column_N = (np.minimum(x_N[after], x_N[before])[crossed_N] + 0.5) / FINER - 0.5
    row_N = np.ceil(((np.minimum(y_N[after], y_N[before])[crossed_N] + 0.5) / FINER - 0.5).clip(0, height)).astype(np.int64)
    kept_N = (np.floor(column_N) == column_N) & (column_N >= 0) & (column_N <= width - 1)
    place_N = column_N[kept_N].astype(np.int64) * height + row_N[kept_N]
    turns = np.bincount(place_N, minlength=height * width + 1)[: height * width]
    inside_HW: npt.NDArray[np.bool_] = (turns.cumsum() % 2 == 1).reshape((height, width), order="F")
    return inside_HW


def _edge(one_2: npt.NDArray[np.int64], other_2: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[2, N]: the points of the fine grid from one corner to the other, a step along the longer side at a time."""
    side_2 = np.abs(other_2 - one_2)
    along = 0 if side_2[0] >= side_2[1] else 1  # of x and y, which moves by one per step
    low_2, high_2 = (one_2, other_2) if one_2[along] <= other_2[along] else (other_2, one_2)
    step_N = np.arange(side_2[along] + 1)
    slope = (high_2[1 - along] - low_2[1 - along]) / side_2[along] if side_2[along] else 0.0
    edge_2N = np.empty((2, len(step_N)), np.int64)
    edge_2N[along] = low_2[along] + step_N
    edge_2N[1 - along] = (low_2[1 - along] + slope * step_N + 0.5).astype(np.int64)
    return edge_2N if low_2 is one_2 else edge_2N[:, ::-1]
