"""A point cloud: x, y and z of every point, and whatever else is known of it.

Letters: P points, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError
from diptych.core.media import MediaFacts, MediaItem, MediaLimit, Pixels, Source
from diptych.data.media.encoded import NUMPY, array_of, only_part, place_of, read_npy, refuse_elements, stored_array
from diptych.data.media.formats.mesh import SUFFIXES, mesh_suffix, read_mesh
from diptych.data.media.formats.pcd import is_pcd, read_pcd
from diptych.data.media.formats.ply import read_ply

SIDE = 256
"""Pixels a side of a thumbnail."""
Points = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cloud:
    """A .npy file [P, 3 + F], or a PLY file (text, or little-endian binary): the scalar properties of its vertices in their order; a PCD
    file, x y z and colours first; with extra `points` an .xyz file, or `surface_points` of the surface of an .off or .obj file."""

    name: str = "cloud"
    suffixes: tuple[str, ...] = ("ply", "pcd", *SUFFIXES)
    surface_points: int = 10_000
    limit: MediaLimit = MediaLimit(bytes=1 << 30, elements=20_000_000)

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None) -> Points:
        """float32 [P, 3 + F], x y z first. Values keep their unit and range: colours of a PLY file are 0..255."""
        limit = limit or self.limit
        array = array_of(item)
        if array is None:
            data = only_part(item, limit)
            if data.startswith(NUMPY):
                array = read_npy(data, item, MediaLimit(limit.bytes, 64 * limit.elements), "values")
            elif is_pcd(data):
                array = read_pcd(data, item, limit)
            elif suffix := mesh_suffix(item.name):
                array = read_mesh(data, suffix, item, limit, points=self.surface_points)
            else:
                array = read_ply(data, item, limit)
        return _check_points(array, item, limit)

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        """Seen from above and aside without perspective, nearer points darker, on white."""
        return draw_points(self.decode(item, limit=limit)[:, :3], side or SIDE)

    def facts(self, content: Points) -> MediaFacts:
        return MediaFacts(content.shape, str(content.dtype))

    def encode(self, part: Source) -> tuple[bytes, str]:
        return stored_array(part, self.name, "ply")


def draw_points(point_P3: Points, side: int) -> Pixels:
    """uint8 RGB [side, side, 3]: the points turned by 45 degrees about z and tilted by 30, the nearest of a pixel drawn last."""
    turn, tilt = np.pi / 4, np.pi / 6
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    place_P3 = point_P3.astype(np.float64)
    centred = place_P3 - (place_P3.min(0) + place_P3.max(0)) / 2
    radius = float(np.linalg.norm(centred, axis=1).max()) or 1.0
    seen_P3 = centred / radius @ (about_x @ about_z).T  # x right, y away from the viewer, z up
    column, row = (((1 + seen) / 2 * (side - 1)).round().astype(int) for seen in (seen_P3[:, 0], -seen_P3[:, 2]))
    order = np.argsort(-seen_P3[:, 1], kind="stable")  # the farthest first
    grey_HW = np.full((side, side), 255, np.uint8)
    grey_HW[row[order], column[order]] = (20 + 90 * (seen_P3[order, 1] + 1)).astype(np.uint8)
    return np.repeat(grey_HW[..., None], 3, axis=2)


def _check_points(array: npt.NDArray[Any], item: MediaItem, limit: MediaLimit) -> Points:
    where = place_of(item)
    if array.ndim != 2 or array.shape[1] < 3 or not len(array) or array.dtype.kind not in "iuf":
        came = f"{array.dtype} {list(array.shape)}"
        raise DecodeError(f"holds {came}", expected="numbers [points, 3 + features]", **where)
    refuse_elements(len(array), "points", item, limit)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        points: Points = array.astype(np.float32)
    if wrong := int((~np.isfinite(points)).any(axis=1).sum()):
        raise DecodeError(f"{wrong:,} of {len(points):,} points are not finite", **where)
    return points
