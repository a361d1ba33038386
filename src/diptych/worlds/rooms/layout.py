"""A furnished room: which things stand where, the points of all surfaces, and the cameras in it. Metres; z is up, the door is at y = 0.

Letters: N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diptych.core.randomness import keyed_rng
from diptych.data.points.rgbd import Camera
from diptych.worlds.solids.categories import parts_of
from diptych.worlds.solids.primitives import surface

Floats = npt.NDArray[np.float64]
NAME = "rooms"
HEIGHTS = {"table": 0.75, "chair": 0.9, "stool": 0.55, "bench": 0.5, "lamp": 1.5, "box": 0.5, "ball": 0.4, "tree": 1.6}
"""Furniture and its height in metres before its size is drawn."""
CLASSES = ("floor", "wall", *HEIGHTS)
COLOURS = {
    "red": (215, 45, 40),
    "green": (45, 165, 60),
    "blue": (45, 85, 220),
    "yellow": (230, 205, 50),
    "purple": (140, 60, 180),
}
SIZES = {"small": 0.75, "": 1.0, "large": 1.25}
PLAIN = {"floor": (150, 120, 90), "wall": (225, 220, 210)}
SECOND = (70, 70, 75)
"""Colour of legs, shafts and trunks."""
WALL_HEIGHT = 2.4
DENSE = 30_000
"""Points of a room from which pictures, clouds and boxes are made."""


@dataclass(frozen=True, slots=True)
class Furniture:
    """A thing in a room. size: "small", "large" or "". box: centre and extents along x, y and z, of its points."""

    id: int
    label: str
    colour: str
    size: str
    box: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Room:
    """Width and depth, the things in it, and dense surface points with normals, colours of 0..255, classes and object ids (-1: none)."""

    width: float
    depth: float
    objects: tuple[Furniture, ...]
    xyz_N3: Floats
    normal_N3: Floats
    colour_N3: Floats
    label_N: npt.NDArray[np.int64]
    object_N: npt.NDArray[np.int64]


@lru_cache(maxsize=64)
def room(seed: int, split: str, index: int, least: int, most: int) -> Room:
    """The room of a row, with `least` to `most` things, fewer where they do not fit."""
    rng = keyed_rng(NAME, seed, split, index)
    width, depth = float(rng.uniform(3.6, 5.2)), float(rng.uniform(3.6, 5.2))
    placed: list[tuple[str, str, str, Floats, Floats, Floats]] = []
    footprints: list[tuple[float, float, float, float]] = []
    for _ in range(int(rng.integers(least, most + 1))):
        label = str(rng.choice(list(HEIGHTS)))
        colour, size = str(rng.choice(list(COLOURS))), str(rng.choice(list(SIZES)))
        xyz_N3, normal_N3, role_N = furniture_points(label, HEIGHTS[label] * SIZES[size], rng)
        half = (xyz_N3[:, :2].max(0) - xyz_N3[:, :2].min(0)) / 2
        spot = next((s for _ in range(60) if (s := _free_spot(rng, width, depth, half, footprints))), None)
        if spot is None:
            continue
        footprints.append((spot[0], spot[1], float(half[0]), float(half[1])))
        xyz_N3[:, :2] += np.array(spot)
        colour_N3 = np.array([COLOURS[colour], SECOND], np.float64)[role_N]
        placed.append((label, colour, size, xyz_N3, normal_N3, colour_N3))
    return _assembled(width, depth, placed, rng)


def furniture_points(
    label: str, height: float, rng: np.random.Generator, count: int = 1200
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Points [count, 3] of a thing of that height on the floor around the origin, normals, and roles: 1 for parts of the second colour."""
    xyz_N3, normal_N3, role_N = surface(parts_of(label, 1.0, rng), count, rng)
    xyz_N3, normal_N3 = xyz_N3[:, [0, 2, 1]], normal_N3[:, [0, 2, 1]]  # y up -> z up
    xyz_N3 = (xyz_N3 - (xyz_N3.min(0) + xyz_N3.max(0)) / 2) * (height / np.ptp(xyz_N3[:, 2]))
    wide = float(np.ptp(xyz_N3[:, :2], axis=0).max())
    xyz_N3[:, :2] *= min(1.0, 1.3 / wide)
    if rng.random() < 0.5:
        xyz_N3, normal_N3 = xyz_N3[:, [1, 0, 2]], normal_N3[:, [1, 0, 2]]
    xyz_N3[:, 2] -= xyz_N3[:, 2].min()
    return xyz_N3, normal_N3, role_N


def cameras(room: Room, count: int, size: int) -> list[Camera]:
    """Cameras in the middles of the walls, the first one at the door, 1.6 metres high and turned to the middle of the room."""
    spots = [(0.5, 0.03), (0.97, 0.5), (0.5, 0.97), (0.03, 0.5)]
    middle_3 = np.array([room.width / 2, room.depth / 2, 0.5])
    made = []
    for number in range(count):
        share = spots[number % len(spots)]
        eye_3 = np.array([share[0] * room.width, share[1] * room.depth, 1.6 + 0.3 * (number // len(spots))])
        forward_3 = (middle_3 - eye_3) / np.linalg.norm(middle_3 - eye_3)
        right_3 = np.cross(forward_3, [0.0, 0.0, 1.0])
        right_3 /= np.linalg.norm(right_3)
        pose_44 = np.eye(4)
        pose_44[:3, :3] = np.stack([right_3, np.cross(forward_3, right_3), forward_3], 1)
        pose_44[:3, 3] = eye_3
        focal, middle = size / 2, (size - 1) / 2
        made.append(Camera((focal, focal, middle, middle), tuple(pose_44.ravel().tolist())))
    return made


def _free_spot(
    rng: np.random.Generator, width: float, depth: float, half: Floats, footprints: list[tuple[float, float, float, float]]
) -> tuple[float, float] | None:
    x = float(rng.uniform(half[0] + 0.1, width - half[0] - 0.1))
    y = float(rng.uniform(half[1] + 0.5, depth - half[1] - 0.1))
    apart = 0.12
    clash = any(abs(x - a) < half[0] + c + apart and abs(y - b) < half[1] + d + apart for a, b, c, d in footprints)
    return None if clash else (x, y)


def _assembled(
    width: float, depth: float, placed: list[tuple[str, str, str, Floats, Floats, Floats]], rng: np.random.Generator
) -> Room:
    objects: list[Furniture] = []
    blocks: list[tuple[Floats, Floats, Floats, int, int]] = []
    for number, (label, colour, size, xyz_N3, normal_N3, colour_N3) in enumerate(placed):
        low_3, high_3 = xyz_N3.min(0), xyz_N3.max(0)
        (cx, cy, cz), (sx, sy, sz) = (low_3 + high_3) / 2, high_3 - low_3
        box = (float(cx), float(cy), float(cz), float(sx), float(sy), float(sz))
        objects.append(Furniture(number, label, colour, size, box))
        blocks.append((xyz_N3, normal_N3, colour_N3, CLASSES.index(label), number))
    rest = DENSE - sum(len(block[0]) for block in blocks)
    floor = int(rest * width * depth / (width * depth + 2 * WALL_HEIGHT * (width + depth)))
    xy_N2, zero_N = rng.uniform(0, [width, depth], (floor, 2)), np.zeros(floor)
    blocks.append((np.column_stack([xy_N2, zero_N]), _facing(floor, 2, 1), _plain("floor", floor), 0, -1))
    for axis, at, facing in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, depth, -1)):
        count = (rest - floor) // 4
        along_N = rng.uniform(0, depth if axis == 0 else width, count)
        z_N, at_N = rng.uniform(0, WALL_HEIGHT, count), np.full(count, at)
        xyz_N3 = np.column_stack([at_N, along_N, z_N] if axis == 0 else [along_N, at_N, z_N])
        blocks.append((xyz_N3, _facing(count, axis, facing), _plain("wall", count), 1, -1))
    order_N = rng.permutation(sum(len(block[0]) for block in blocks))
    xyz_N3, normal_N3, colour_N3 = (np.concatenate([block[k] for block in blocks])[order_N] for k in (0, 1, 2))
    label_N, object_N = (np.concatenate([np.full(len(b[0]), b[k]) for b in blocks])[order_N] for k in (3, 4))
    return Room(width, depth, tuple(objects), xyz_N3, normal_N3, colour_N3, label_N, object_N)


def _facing(count: int, axis: int, sign: int) -> Floats:
    normal_N3 = np.zeros((count, 3))
    normal_N3[:, axis] = sign
    return normal_N3


def _plain(kind: str, count: int) -> Floats:
    return np.tile(np.array(PLAIN[kind], np.float64), (count, 1))
