"""Surface points of simple solids: box, ball, cylinder, cone and ring, placed in space.  Letters: N points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kind = Literal["box", "ball", "cylinder", "cone", "ring"]
Triple = tuple[float, float, float]
AXES = {"x": (1, 2, 0), "y": (0, 1, 2), "z": (2, 0, 1)}


@dataclass(frozen=True, slots=True)
class Part:
    """One primitive of a solid.

    kind    "box", "ball", "cylinder", "cone" or "ring"
    size    half extents along its own x, y and z. A cylinder, a cone (tip up) and a ring (size y: half its thickness) turn about y
    centre  of its bounding box
    axis    where its own y points
    role    0 for the main colour, 1 for the second
    """

    kind: Kind
    size: Triple
    centre: Triple = (0.0, 0.0, 0.0)
    axis: Literal["x", "y", "z"] = "y"
    role: int = 0

    @property
    def area(self) -> float:
        """About its surface, for sharing points among parts."""
        x, y, z = self.size
        sides = x * y + y * z + z * x
        return {"box": 8.0, "ball": 4.2, "cylinder": 6.0, "cone": 3.5, "ring": 5.0}[self.kind] * sides


def surface(parts: Sequence[Part], count: int, rng: np.random.Generator) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Points [count, 3], their outward normals [count, 3] and the role of each point's part [count]."""
    area = np.array([part.area for part in parts])
    of_N = np.sort(rng.choice(len(parts), count, p=area / area.sum()))
    blocks = [_placed(part, int((of_N == k).sum()), rng) for k, part in enumerate(parts)]
    roles_N = np.array([part.role for part in parts])[of_N]
    order_N = rng.permutation(count)
    point_N3, normal_N3 = (np.concatenate(column)[order_N] for column in zip(*blocks, strict=True))
    return point_N3, normal_N3, roles_N[order_N]


def _placed(part: Part, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    point_N3, normal_N3 = unit_surface(part.kind, part.size, count, rng)
    size_3 = np.array(part.size)
    normal_N3 = normal_N3 / size_3
    normal_N3 /= np.linalg.norm(normal_N3, axis=1, keepdims=True)
    order = list(AXES[part.axis])
    return (point_N3 * size_3)[:, order] + np.array(part.centre), normal_N3[:, order]


def unit_surface(kind: Kind, size: Triple, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Points and normals of the primitive within [-1, 1]; `size` decides how many lie on caps and faces."""
    if kind == "ball":
        point_N3 = rng.standard_normal((count, 3))
        point_N3 /= np.linalg.norm(point_N3, axis=1, keepdims=True)
        return point_N3, point_N3.copy()
    if kind == "box":
        return _box(size, count, rng)
    angle_N = rng.uniform(0, 2 * np.pi, count)
    round_N2 = np.stack([np.cos(angle_N), np.sin(angle_N)], 1)
    zero_N = np.zeros(count)
    if kind == "ring":
        other_N, thin = rng.uniform(0, 2 * np.pi, count), 0.3
        radius_N = 1 - thin + thin * np.cos(other_N)
        point_N3 = np.stack([radius_N * round_N2[:, 0], np.sin(other_N), radius_N * round_N2[:, 1]], 1)
        normal_N3 = np.stack([np.cos(other_N) * round_N2[:, 0], np.sin(other_N), np.cos(other_N) * round_N2[:, 1]], 1)
        return point_N3, normal_N3
    x, y, z = size
    cap = (x * z) / (x * z * (2 if kind == "cylinder" else 1) + y * (x + z)) * (2 if kind == "cylinder" else 1)
    on_cap_N = rng.random(count) < cap
    radius_N = np.sqrt(rng.random(count))
    height_N = rng.uniform(-1, 1, count)
    if kind == "cylinder":
        top_N = np.where(rng.random(count) < 0.5, 1.0, -1.0)
        point_N3 = np.stack([round_N2[:, 0], height_N, round_N2[:, 1]], 1)
        normal_N3 = np.stack([round_N2[:, 0], zero_N, round_N2[:, 1]], 1)
    else:
        top_N = np.full(count, -1.0)
        height_N = 1 - 2 * radius_N
        point_N3 = np.stack([radius_N * round_N2[:, 0], height_N, radius_N * round_N2[:, 1]], 1)
        normal_N3 = np.stack([round_N2[:, 0], zero_N + 0.5, round_N2[:, 1]], 1)
    cap_N3 = np.stack([radius_N * round_N2[:, 0], top_N, radius_N * round_N2[:, 1]], 1)
    point_N3[on_cap_N] = cap_N3[on_cap_N]
    normal_N3[on_cap_N] = np.stack([zero_N, top_N, zero_N], 1)[on_cap_N]
    return point_N3, normal_N3


def _box(size: Triple, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    x, y, z = size
    area = np.array([y * z, z * x, x * y])
    axis_N = rng.choice(3, count, p=area / area.sum())
    side_N = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    point_N3 = rng.uniform(-1, 1, (count, 3))
    normal_N3 = np.zeros((count, 3))
    row_N = np.arange(count)
    point_N3[row_N, axis_N] = normal_N3[row_N, axis_N] = side_N
    return point_N3, normal_N3
