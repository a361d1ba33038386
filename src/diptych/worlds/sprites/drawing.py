"""Sprites as polygons on black.  Letters: V vertices, H W pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

COLOURS = {
    "blue": (0, 0, 255),
    "green": (0, 128, 0),
    "yellow": (255, 255, 0),
    "red": (255, 0, 0),
    "cyan": (0, 255, 255),
    "pink": (255, 192, 203),
    "brown": (165, 42, 42),
}
FINE = 10
"""A picture is drawn this many times as large and made smaller."""


@dataclass(frozen=True, slots=True)
class Sprite:
    """A shape of area `scale` squared at (x, y), from 0 to 1, y upwards."""

    shape: str
    colour: str
    scale: float
    x: float
    y: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape.replace('_', ' of ')}"


def polygon(sides: int, turn: float = 0.0) -> npt.NDArray[np.float64]:
    """[V, 2] vertices of a regular polygon of area 1."""
    angle_V = 2 * np.pi / sides * np.arange(sides) + turn
    area = sides * math.sin(2 * math.pi / sides) / 2
    return np.stack([np.cos(angle_V), np.sin(angle_V)], 1) / math.sqrt(area)


def star(points: int, turn: float = 0.0, height: float = 1.0) -> npt.NDArray[np.float64]:
    """[V, 2] vertices of a star of area 1 whose points stand `height` above the inner radius."""
    step = 2 * np.pi / points
    radius_V = np.tile([1.0, 1.0 + height], points)
    angle_V = step / 2 * np.arange(2 * points) + turn
    area = (1 + height) * points * math.sin(step / 2)
    vertex_V2: npt.NDArray[np.float64] = radius_V[:, None] * np.stack([np.cos(angle_V), np.sin(angle_V)], 1) / math.sqrt(area)
    return vertex_V2


SHAPES = {
    "square": polygon(4, np.pi / 4),
    "triangle": polygon(3, np.pi / 2),
    "star_4": star(4, np.pi / 4),
    "circle": polygon(30),
    "pentagon": polygon(5, np.pi / 2),
    "hexagon": polygon(6),
    "octagon": polygon(8),
    "star_5": star(5, np.pi + np.pi / 10),
    "star_6": star(6),
}


def vertices(sprite: Sprite) -> npt.NDArray[np.float64]:
    """[V, 2] of a sprite, from 0 to 1, y upwards."""
    vertex_V2: npt.NDArray[np.float64] = SHAPES[sprite.shape] * sprite.scale + np.array([sprite.x, sprite.y])
    return vertex_V2


def draw(sprites: Sequence[Sprite], size: int) -> npt.NDArray[np.uint8]:
    """[size, size, 3]: sprites on black, later ones in front."""
    canvas = Image.new("RGB", (size * FINE, size * FINE))
    pen = ImageDraw.Draw(canvas)
    for sprite in sprites:
        pen.polygon([(float(x) * size * FINE, float(y) * size * FINE) for x, y in vertices(sprite)], fill=COLOURS[sprite.colour])
    small = canvas.resize((size, size), Image.Resampling.LANCZOS).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(small)


def masks(sprites: Sequence[Sprite], size: int) -> npt.NDArray[np.bool_]:
    """[sprites, size, size]: pixels that each sprite touches, hidden ones too."""
    if not sprites:
        return np.zeros((0, size, size), np.bool_)
    return np.stack([draw([sprite], size).any(-1) for sprite in sprites])


def visible_masks(sprites: Sequence[Sprite], size: int) -> npt.NDArray[np.bool_]:
    """[sprites, size, size]: pixels of which each sprite is the foremost; no pixel belongs to two."""
    whole_KHW = masks(sprites, size)
    behind = np.zeros((size, size), np.bool_)
    seen_KHW = np.zeros_like(whole_KHW)
    for number in range(len(sprites) - 1, -1, -1):
        seen_KHW[number] = whole_KHW[number] & ~behind
        behind |= whole_KHW[number]
    return seen_KHW
