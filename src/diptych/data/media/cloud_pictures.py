"""Pictures of point clouds: one view, or a turntable of views from all around, without perspective.

Letters: P points, F values of a point, V views, S pixels per side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.media import Pixels
from diptych.data.media.cloud_views import Up

TURN, TILT = 45.0, 30.0
"""Degrees of the usual view: turned about the axis that points up, and seen from so far above."""
BACKGROUND = 255


def draw_cloud(cloud_PF: npt.NDArray[Any], side: int, *, turn: float = TURN, tilt: float = TILT, up: Up = "z") -> Pixels:
    """View of a point cloud, uint8 RGB [side, side, 3]. Points have their colours, darker where they are far; without colours they are
    grey, darker where they are near. Points are drawn so large that a surface has few holes; the nearest of a pixel is seen.

    turn, tilt  in degrees
    up          the axis of the cloud that points up
    """
    xyz_P3 = _centred(cloud_PF, up) @ _view(turn, tilt).T  # x right, y away from the viewer, z up
    depth_P, colour_P3 = xyz_P3[:, 1], point_colours(cloud_PF)
    if colour_P3 is None:
        shown_P3 = np.repeat((20 + 90 * (depth_P + 1))[:, None], 3, axis=1)
    else:
        shown_P3 = colour_P3 * (0.825 - 0.175 * depth_P)[:, None]
    size = max(1, min(side // 24, math.ceil(1.3 * side / len(xyz_P3) ** 0.5)))
    scale = side - size
    column_P, row_P = (((1 + xyz_P3[:, 0]) / 2 * scale).round(), ((1 - xyz_P3[:, 2]) / 2 * scale).round())
    order_P = np.argsort(-depth_P, kind="stable")  # the farthest first, so that the nearest stays
    pixels = np.full((side, side, 3), BACKGROUND, np.uint8)
    step_S = np.arange(size)
    row_PSS = row_P[order_P].astype(int)[:, None, None] + step_S[:, None]
    column_PSS = column_P[order_P].astype(int)[:, None, None] + step_S
    pixels[row_PSS, column_PSS] = shown_P3[order_P].clip(0, 255).astype(np.uint8)[:, None, None]
    return pixels


def turntable(cloud_PF: npt.NDArray[Any], side: int, *, views: int = 8, tilt: float = 20.0, up: Up = "z") -> Pixels:
    """Views of a point cloud from all around, uint8 RGB [V, S, S, 3]: evenly spaced turns about the axis that points up."""
    turns = np.arange(views) * 360 / views
    return np.stack([draw_cloud(cloud_PF, side, turn=float(turn), tilt=tilt, up=up) for turn in turns])


def point_colours(cloud_PF: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | None:
    """Colours uint8 [P, 3] in the columns after x, y and z, given as 0..255 or 0..1; None without columns, and for values that are no
    colours, such as normals.
    """
    if cloud_PF.shape[1] < 6:
        return None
    value_P3 = cloud_PF[:, 3:6].astype(np.float64)
    most = value_P3.max()
    if value_P3.min() < 0 or most > 255:
        return None
    colour_P3: npt.NDArray[np.uint8] = (value_P3 * (255 if most <= 1 else 1)).round().astype(np.uint8)
    return colour_P3


def sampled_view(cloud_PF: npt.NDArray[Any], most: int, *, up: Up = "z") -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8] | None]:
    """At most `most` points, the same each time, for a viewer that turns them itself: coordinates [P, 3] in the unit ball, z up, and
    their colours [P, 3] or None.
    """
    rows = np.arange(len(cloud_PF))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
    colour_P3 = point_colours(cloud_PF)
    return _centred(cloud_PF, up)[rows], None if colour_P3 is None else colour_P3[rows]


def _centred(cloud_PF: npt.NDArray[Any], up: Up) -> npt.NDArray[np.float64]:
    """Coordinates [P, 3] with z up, around the middle of their box, the farthest at distance 1."""
    x_P, y_P, z_P = cloud_PF[:, :3].astype(np.float64).T
    xyz_P3 = np.stack({"x": (y_P, z_P, x_P), "y": (x_P, -z_P, y_P), "z": (x_P, y_P, z_P)}[up], axis=1)
    xyz_P3 -= (xyz_P3.min(0) + xyz_P3.max(0)) / 2
    return xyz_P3 / (float(np.linalg.norm(xyz_P3, axis=1).max()) or 1.0)


def _view(turn: float, tilt: float) -> npt.NDArray[np.float64]:
    """[3, 3] rotation of column vectors about z, then about x, by angles in degrees."""
    a, b = np.radians((turn, tilt))
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    rotated: npt.NDArray[np.float64] = about_x @ about_z
    return rotated
