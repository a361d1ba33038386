"""Pixels of a rendered chest: lungs between ribs, a heart, lesions typed by pathology.

The patient's right lung is on the left of the picture, as radiographs are hung. Letters: H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PATHOLOGIES = ("opacity", "nodule", "cavity", "reticulation", "calcification")
ZONES = (
    *("right upper zone", "right mid zone", "right lower zone"),
    *("left upper zone", "left mid zone", "left lower zone"),
)
LESION_RADIUS = 0.075
"""In shares of the side of a picture."""
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lesion:
    """A lesion before it is drawn: what it is, in which zone, its centre in pixels and its radius."""

    pathology: str
    zone: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class ChestShape:
    """Geometry of one chest, in shares of the side: centre and half axes of the right lung, of which the left is the mirror image; half
    width of the heart; rows between ribs."""

    x: float
    y: float
    wide: float
    tall: float
    heart: float
    rib_period: float

    def lung(self, side: int, left: bool) -> Mask:
        """bool [side, side]: one lung, without the heart."""
        rows_HW, columns_HW = np.mgrid[:side, :side] / side
        centre = 1 - self.x if left else self.x
        inside = ((columns_HW - centre) / self.wide) ** 2 + np.abs((rows_HW - self.y) / self.tall) ** 2.6 <= 1
        return np.asarray(inside & ~self.heart_mask(side))

    def heart_mask(self, side: int) -> Mask:
        """bool [side, side]: the heart, more of it on the patient's left."""
        rows_HW, columns_HW = np.mgrid[:side, :side] / side
        return np.asarray(((columns_HW - 0.55) / self.heart) ** 2 + ((rows_HW - 0.66) / 0.17) ** 2 <= 1)


def shape_of(rng: np.random.Generator, *, wide_ribs: bool) -> ChestShape:
    """A random chest. Ribs of the two kinds lie 0.085 or 0.13 of the side apart, give or take a twentieth."""
    x, y, wide, tall, heart, ribs = (float(value) for value in rng.uniform(-1, 1, 6))
    period = (0.13 if wide_ribs else 0.085) * (1 + 0.05 * ribs)
    return ChestShape(0.29 + 0.01 * x, 0.5 + 0.02 * y, 0.185 + 0.01 * wide, 0.38 + 0.02 * tall, 0.13 + 0.02 * heart, period)


def placed(rng: np.random.Generator, shape: ChestShape, side: int, pathology: str, zone: str) -> Lesion:
    """A lesion of that kind with its centre in that third of its lung."""
    number = ZONES.index(zone)
    left, third = number >= 3, number % 3
    across, down, size = (float(value) for value in rng.uniform(-1, 1, 3))
    y = shape.y + shape.tall * ((third - 1) * 0.58 + 0.14 * down)
    half = shape.wide * math.sqrt(max(0.0, 1 - min(1.0, abs((y - shape.y) / shape.tall) ** 2.6)))
    x = (1 - shape.x if left else shape.x) + 0.4 * half * across - (0.35 * half * (1 if not left else -1) if third == 2 else 0)
    return Lesion(pathology, zone, x * side, y * side, LESION_RADIUS * side * (1 + 0.15 * size))


def lesion_mask(lesion: Lesion, side: int) -> Mask:
    """bool [side, side]: the disc that a lesion takes."""
    rows_HW, columns_HW = np.mgrid[:side, :side] + 0.5
    return np.asarray((rows_HW - lesion.y) ** 2 + (columns_HW - lesion.x) ** 2 <= lesion.radius**2)


def draw_chest(
    rng: np.random.Generator, shape: ChestShape, lesions: tuple[Lesion, ...], side: int, *, device: bool
) -> npt.NDArray[np.uint8]:
    """uint8 [side, side, 3], grey."""
    rows_HW, columns_HW = np.mgrid[:side, :side] / side
    grey_HW = np.full((side, side), 0.68)
    lungs_HW = shape.lung(side, False) | shape.lung(side, True)
    grey_HW[lungs_HW] = 0.22
    arc_HW = rows_HW + 0.35 * np.abs(columns_HW - 0.5)
    phase = float(rng.uniform(0, 1))
    grey_HW += 0.09 * (np.cos(2 * np.pi * (arc_HW / shape.rib_period + phase)) > 0.45) * (np.abs(columns_HW - 0.5) > 0.06)
    grey_HW[np.abs(columns_HW - 0.5) < 0.045] = 0.8
    grey_HW[shape.heart_mask(side)] = 0.78
    for lesion in lesions:
        grey_HW += _added(lesion, side, rng)
    if device:
        grey_HW[(np.abs(rows_HW - 0.1) < 0.035) & (np.abs(columns_HW - 0.86) < 0.05)] = 1.0
    grey_HW = (grey_HW - 0.5) * float(rng.uniform(0.85, 1.1)) + 0.5 + float(rng.uniform(-0.05, 0.05))
    grey_HW += rng.normal(0, 0.025, (side, side))
    eight_HW = np.rint(np.clip(grey_HW, 0, 1) * 255).astype(np.uint8)
    return np.repeat(eight_HW[..., None], 3, -1)


def _added(lesion: Lesion, side: int, rng: np.random.Generator) -> Floats:
    """Grey values that a lesion adds; always the same count of random numbers."""
    rows_HW, columns_HW = np.mgrid[:side, :side] + 0.5
    dots_52 = rng.uniform(-0.6, 0.6, (5, 2))
    distance_HW = np.hypot(rows_HW - lesion.y, columns_HW - lesion.x) / lesion.radius
    if lesion.pathology == "opacity":
        return np.asarray(0.45 * np.exp(-1.6 * distance_HW**2))
    if lesion.pathology == "nodule":
        return np.asarray(0.5 * (distance_HW < 0.55))
    if lesion.pathology == "cavity":
        return np.asarray(0.5 * (np.abs(distance_HW - 0.75) < 0.22))
    if lesion.pathology == "reticulation":
        lines_HW = ((rows_HW + columns_HW) % 4 < 1.5) | ((rows_HW - columns_HW) % 4 < 1.5)
        return np.asarray(0.4 * lines_HW * (distance_HW < 1))
    near_HW = [
        np.hypot(rows_HW - lesion.y - dy * lesion.radius, columns_HW - lesion.x - dx * lesion.radius) < 0.9 for dy, dx in dots_52
    ]
    return np.asarray(0.75 * np.any(near_HW, 0))
