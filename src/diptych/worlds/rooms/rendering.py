"""Pictures of surface points through a pinhole camera and a z-buffer: colour with shading, and depth in metres.

Letters: N points, H W pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.data.points.rgbd import Camera, project

Pixels = npt.NDArray[np.uint8]
LIGHT = np.array([0.4, 0.5, 0.8]) / np.linalg.norm([0.4, 0.5, 0.8])
NEAR = 0.1


def render_frame(
    xyz_N3: npt.NDArray[np.float64],
    normal_N3: npt.NDArray[np.float64],
    colour_N3: npt.NDArray[np.float64],
    camera: Camera,
    size: int,
    *,
    splat: int = 1,
) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """Colour uint8 [size, size, 3] and depth float32 [size, size], 0 if there is nothing.

    colour in 0..255. Each point covers the pixels up to `splat` around its own; the nearest point of a pixel is seen.
    """
    pixel_N2, z_N = project(xyz_N3, camera)
    seen_N = np.flatnonzero(z_N > NEAR)
    row_N, column_N = np.rint(pixel_N2[seen_N]).astype(np.int64).T
    steps = range(-splat, splat + 1)
    offset_S2 = np.array([(down, right) for down in steps for right in steps])
    row_SN, column_SN = row_N + offset_S2[:, :1], column_N + offset_S2[:, 1:]
    inside_SN = (row_SN >= 0) & (row_SN < size) & (column_SN >= 0) & (column_SN < size)
    pixel_M = (row_SN * size + column_SN)[inside_SN]
    point_M = np.broadcast_to(seen_N, row_SN.shape)[inside_SN]
    depth_M = z_N[point_M]
    nearest = np.full(size * size, np.inf)
    np.minimum.at(nearest, pixel_M, depth_M)
    visible_M = depth_M <= nearest[pixel_M]
    shade_N = 0.6 + 0.4 * np.abs(normal_N3 @ LIGHT)
    picture, chosen = np.zeros((size * size, 3), np.uint8), point_M[visible_M]
    picture[pixel_M[visible_M]] = (colour_N3[chosen] * shade_N[chosen, None]).clip(0, 255).astype(np.uint8)
    depth = np.where(np.isfinite(nearest), nearest, 0).astype(np.float32)
    return picture.reshape(size, size, 3), depth.reshape(size, size)
