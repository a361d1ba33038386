"""A point cloud: x, y and z of every point, and optional further features.

Letters: P points, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError
from diptych.core.media import MediaFacts, MediaItem, MediaLimit, Pixels, Source
from diptych.data.media.cloud_pictures import draw_cloud
from diptych.data.media.encoded import NUMPY, array_of, only_part, place_of, read_npy, refuse_elements, stored_array
from diptych.data.media.formats.mesh import SUFFIXES, mesh_suffix, read_mesh
from diptych.data.media.formats.pcd import is_pcd, read_pcd
from diptych.data.media.formats.ply import read_ply

SIDE = 256
"""Pixels per side of a thumbnail."""
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
        """Seen from above and aside without perspective, on white; see `draw_cloud`."""
        return draw_cloud(self.decode(item, limit=limit), side or SIDE)

    def facts(self, content: Points) -> MediaFacts:
        return MediaFacts(content.shape, str(content.dtype))

    def encode(self, part: Source) -> tuple[bytes, str]:
        return stored_array(part, self.name, "ply")


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
