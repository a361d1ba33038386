"""Drawing of overhead views: ground, roads, and things at any rotation.  Letters: H W pixels, P points of an outline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
Outline = npt.NDArray[np.float64]
"""[P, 2] of x and y."""
FINER = 3
"""Pixels are drawn this many times finer and averaged."""
PAINT = {"white": (240, 240, 236), "red": (200, 40, 36), "yellow": (236, 206, 40), "black": (24, 24, 28)}
GROUND = {"grass": (92, 128, 66), "desert": (190, 160, 116), "water": (40, 92, 140)}
LAND = ("grass", "desert")
ROAD, LINE, SHADE = (112, 110, 108), (214, 210, 196), (44, 52, 40)
SMALL = 256
"""Pixels per side up to which a view is drawn as a whole."""
# Outlines in units of a thing's radius, its front to the right.
_PLANE = (
    *(
        (1.0, 0.0),
        (0.9, 0.12),
        (0.3, 0.14),
        (-0.1, 0.95),
        (-0.32, 0.95),
        (-0.12, 0.14),
        (-0.65, 0.1),
        (-0.82, 0.38),
        (-0.98, 0.38),
    ),
    *((-0.9, 0.0), (-0.98, -0.38), (-0.82, -0.38), (-0.65, -0.1), (-0.12, -0.14), (-0.32, -0.95), (-0.1, -0.95), (0.3, -0.14)),
    (0.9, -0.12),
)
_SHIP = ((1.0, 0.0), (0.6, 0.26), (-0.85, 0.26), (-1.0, 0.16), (-1.0, -0.16), (-0.85, -0.26), (0.6, -0.26))
_BUILDING = ((0.8, 0.6), (-0.8, 0.6), (-0.8, -0.6), (0.8, -0.6))
_SHAPES = {"plane": _PLANE, "ship": _SHIP, "building": _BUILDING}


@dataclass(frozen=True, slots=True)
class OverheadObject:
    """A plane, ship or building: its colour, centre and radius in pixels, and the angle of its front, in degrees clockwise."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float

    def outline(self) -> Outline:
        """[P, 2] of its corners in pixels."""
        turn = math.radians(self.angle)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        corner_P2: Outline = np.array(_SHAPES[self.kind]) @ rotation.T * self.radius + (self.x, self.y)
        return corner_P2


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line across a view: the points whose product with the unit `normal` is `offset` (a shore, or the middle of a road)."""

    normal: tuple[float, float]
    offset: float

    def distance(self, x: float, y: float) -> float:
        """Signed distance of a point in pixels."""
        return x * self.normal[0] + y * self.normal[1] - self.offset


def ground_of(rng: np.random.Generator, size: tuple[int, int], land: str, shore: Line | None) -> Pixels:
    """uint8 [H, W, 3] of land, of water ("water"), or of both: water where the distance from the shore is above 0."""
    height, width = size
    base_HW3 = np.broadcast_to(np.array(GROUND[land], np.float32), (height, width, 3)).copy()
    if shore is not None:
        y_H1, x_1W = np.mgrid[:height, :1] + 0.5, np.mgrid[:1, :width][1] + 0.5
        share_HW1 = np.clip(x_1W * shore.normal[0] + y_H1[0] * shore.normal[1] - shore.offset + 0.5, 0, 1)[..., None]
        base_HW3 = base_HW3 * (1 - share_HW1) + np.array(GROUND["water"], np.float32) * share_HW1
    coarse = 10 * rng.standard_normal((max(2, height // 12), max(2, width // 12)), np.float32)
    patch_HW = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    grain_HW = 5 * rng.standard_normal((height, width), np.float32)
    image_HWC: Pixels = np.clip(base_HW3 + (patch_HW + grain_HW)[..., None], 0, 255).astype(np.uint8)
    return image_HWC


def draw_roads(image_HWC: Pixels, roads: tuple[Line, ...], width: float) -> Pixels:
    """The view with straight roads of that width and a line in their middle."""
    height, length = image_HWC.shape[:2]
    reach = height + length
    picture, scale = _finer(image_HWC)
    draw = ImageDraw.Draw(picture)
    for road in roads:
        nx, ny = road.normal
        ends = [(road.offset * nx - side * ny * reach, road.offset * ny + side * nx * reach) for side in (-1, 1)]
        points = [(x * scale, y * scale) for x, y in ends]
        draw.line(points, fill=ROAD, width=max(1, round(width * scale)))
        draw.line(points, fill=LINE, width=max(1, round(width * scale * 0.14)))
    return _coarser(picture, (height, length))


def draw_things(image_HWC: Pixels, things: tuple[OverheadObject, ...]) -> Pixels:
    """The view with things painted over it, a shadow at their lower right and a roof line on buildings. In a large view each is drawn in
    a window of its own, so that the view costs what its things cost."""
    drawn_HWC = image_HWC.copy()
    height, width = image_HWC.shape[:2]
    small = max(height, width) <= SMALL
    parts = [(things, (0, 0, width, height))] if small else [((t,), window_of(t, (height, width), margin=3)) for t in things]
    for some, (left, top, right, bottom) in parts:
        if left >= right or top >= bottom or not some:
            continue
        picture, scale = _finer(drawn_HWC[top:bottom, left:right])
        for thing in some:
            _paint(ImageDraw.Draw(picture), thing, (left, top), scale)
        drawn_HWC[top:bottom, left:right] = _coarser(picture, (bottom - top, right - left))
    return drawn_HWC


def _paint(draw: ImageDraw.ImageDraw, thing: OverheadObject, corner: tuple[int, int], scale: int) -> None:
    corner_P2 = (thing.outline() - corner) * scale
    draw.polygon([tuple(point) for point in corner_P2 + 0.1 * thing.radius * scale], fill=SHADE)
    draw.polygon([tuple(point) for point in corner_P2], fill=PAINT[thing.colour])
    if thing.kind == "building":
        roof = tuple(int(0.75 * channel) if thing.colour != "black" else 70 for channel in PAINT[thing.colour])
        ends = [tuple(corner_P2[[a, b]].mean(0)) for a, b in ((0, 3), (1, 2))]
        draw.line(ends, fill=roof, width=max(1, round(0.12 * thing.radius * scale)))


def window_of(thing: OverheadObject, size: tuple[int, int], margin: int = 0) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a thing within a view, in whole pixels."""
    low, high = thing.outline().min(0), thing.outline().max(0)
    left, top = max(0, math.floor(low[0]) - margin), max(0, math.floor(low[1]) - margin)
    return left, top, min(size[1], math.ceil(high[0]) + margin), min(size[0], math.ceil(high[1]) + margin)


def mask_of(thing: OverheadObject, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """[H, W]: pixels that a thing covers."""
    picture = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in thing.outline()], fill=1)
    return np.asarray(picture)


def _finer(image_HWC: Pixels) -> tuple[Image.Image, int]:
    height, width = image_HWC.shape[:2]
    large = Image.fromarray(image_HWC).resize((width * FINER, height * FINER), Image.Resampling.NEAREST)
    return large, FINER


def _coarser(picture: Image.Image, size: tuple[int, int]) -> Pixels:
    return np.asarray(picture.reduce(FINER))[: size[0], : size[1]]
