"""Pictures of surface points through a z-buffer: colour with shading, or depth.  Letters: N points, H W pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
ELEVATION = np.pi / 7
LIGHT = np.array([0.4, 0.8, 0.5]) / np.linalg.norm([0.4, 0.8, 0.5])
BACKGROUND = 235


def camera(azimuth: float, elevation: float = ELEVATION) -> npt.NDArray[np.float64]:
    """[3, 3] rows: right, up and towards the camera, for an orthographic camera that circles the y axis. Angles in radians."""
    a, e = azimuth, elevation
    towards = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(towards, right), towards])


def render(
    xyz_N3: npt.NDArray[np.float64],
    normal_N3: npt.NDArray[np.float64],
    colour_N3: npt.NDArray[np.float64],
    *,
    azimuth: float,
    size: int,
    splat: int = 2,
) -> tuple[Pixels, Pixels]:
    """Colour and depth, both uint8 [size, size, 3]; near is bright in the depth picture and its background black.

    xyz within the unit sphere; colour in 0..255. Each point covers splat x splat pixels, the nearest point of a pixel is seen.
    """
    view_33 = camera(azimuth)
    seen_N3 = xyz_N3 @ view_33.T
    half = (size - splat) / 2
    column_N = np.rint(half + seen_N3[:, 0] * half).astype(np.int64)
    row_N = np.rint(half - seen_N3[:, 1] * half).astype(np.int64)
    offset_S = np.array([(down, right) for down in range(splat) for right in range(splat)])
    row_SN = (row_N + offset_S[:, :1]).clip(0, size - 1)
    column_SN = (column_N + offset_S[:, 1:]).clip(0, size - 1)
    pixel_M = (row_SN * size + column_SN).ravel()
    depth_M = np.broadcast_to(seen_N3[:, 2], row_SN.shape).ravel()
    nearest = np.full(size * size, -np.inf)
    np.maximum.at(nearest, pixel_M, depth_M)
    visible_M = depth_M >= nearest[pixel_M]
    point_M = np.broadcast_to(np.arange(len(xyz_N3)), row_SN.shape).ravel()
    shade_N = 0.55 + 0.45 * np.abs(normal_N3 @ LIGHT)
    picture = np.full((size * size, 3), BACKGROUND, np.uint8)
    chosen = point_M[visible_M]
    picture[pixel_M[visible_M]] = (colour_N3[chosen] * shade_N[chosen, None]).clip(0, 255).astype(np.uint8)
    depth = np.zeros(size * size, np.uint8)
    there = np.isfinite(nearest)
    depth[there] = (55 + 200 * (nearest[there] + 1) / 2).clip(0, 255).astype(np.uint8)
    return picture.reshape(size, size, 3), np.repeat(depth.reshape(size, size, 1), 3, axis=2)
