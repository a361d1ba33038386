"""Scenes to pixels. Shapes are signed distances evaluated in a window around each thing, so an edge is smooth without
supersampling and the mask is exact: a pixel belongs to a thing when its centre does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.data.masks import Mask
from diptych.worlds.rendered import generator
from diptych.worlds.scenes.layout import Scene, SceneObject

Field = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

RGB = {
    "red": (222, 38, 38),
    "orange": (245, 138, 20),
    "yellow": (246, 222, 44),
    "green": (46, 168, 60),
    "cyan": (60, 212, 220),
    "blue": (44, 84, 226),
    "purple": (140, 52, 196),
    "pink": (248, 140, 190),
}
SHADE = 0.5  # of the colour, in stripes and dots


def _box(u: Field, v: Field, half_width: float, half_height: float) -> Field:
    d: Field = np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)
    return d


def _circle(u: Field, v: Field, radius: float = 1.0) -> Field:
    d: Field = np.sqrt(u * u + v * v) - np.float32(radius)
    return d


def _triangle(u: Field, v: Field) -> Field:
    sin, cos = math.sin(math.radians(30)), math.cos(math.radians(30))
    d: Field = np.maximum(v - np.float32(0.5), np.abs(u) * np.float32(cos) - v * np.float32(sin) - np.float32(0.5))
    return d


def _star(u: Field, v: Field) -> Field:
    """Five points: fold the plane into one tenth, where the outline is a single line from a tip to a notch."""
    tenth = math.pi / 5
    angle: Field = np.arctan2(u, -v)
    folded = np.abs(np.remainder(angle + np.float32(tenth), np.float32(2 * tenth)) - np.float32(tenth))
    radius = np.sqrt(u * u + v * v)
    x, y = radius * np.cos(folded), radius * np.sin(folded)
    notch = 0.45
    nx, ny = notch * math.sin(tenth), 1 - notch * math.cos(tenth)
    length = math.hypot(nx, ny)
    d: Field = ((x - np.float32(1.0)) * np.float32(nx) + y * np.float32(ny)) / np.float32(length)
    return d


SHAPE: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "triangle": _triangle,
    "star": _star,
    "cross": lambda u, v: np.minimum(_box(u, v, 0.95, 0.3), _box(u, v, 0.3, 0.95)),
    "ring": lambda u, v: np.abs(_circle(u, v, 0.775)) - np.float32(0.225),
    "moon": lambda u, v: np.maximum(_circle(u, v), -_circle(u - np.float32(0.45), v, 0.8)),
    "bar": lambda u, v: _box(u, v, 0.97, 0.34),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A thing as drawn in its window: cover 0..1, its colours, and the window's position."""

    top: int
    left: int
    cover_HW: Field
    colour_HWC: Field
    inside_HW: Mask


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """Pixels uint8 [H, W, 3] and masks [N, H, W] of the things: whole silhouettes, and what can be seen of them."""

    pixels_HWC: Pixels
    whole_NHW: Mask
    visible_NHW: Mask


def render(scene: Scene, size: int, pictures: Sequence[Pixels] = ()) -> RenderedScene:
    """Draw back to front. `pictures` are the RGBA cut-outs that `SceneObject.picture` numbers."""
    canvas = background(scene, size)
    count = len(scene.things)
    whole = np.zeros((count, size, size), bool)
    visible = np.zeros((count, size, size), bool)
    for row in sorted(range(count), key=lambda i: scene.things[i].depth):
        thing = scene.things[row]
        layer = _cutout(thing, size, pictures[thing.picture]) if thing.picture >= 0 else _shape(thing, size)
        height, width = layer.cover_HW.shape
        window = (slice(layer.top, layer.top + height), slice(layer.left, layer.left + width))
        part = canvas[window]
        part += (layer.colour_HWC - part) * layer.cover_HW[..., None]
        visible[:, *window] &= ~layer.inside_HW
        whole[row][window] = layer.inside_HW
        visible[row][window] = layer.inside_HW
    return RenderedScene((canvas + np.float32(0.5)).astype(np.uint8), whole, visible)


def background(scene: Scene, size: int) -> Field:
    """Grey: plain, a vertical gradient, or with noise."""
    top, bottom = (np.float32(255 * tone) for tone in scene.tone)
    if scene.background == "noise":
        grey = generator(scene.noise_seed).random((size, size), dtype=np.float32)
        grey = np.clip((grey - np.float32(0.5)) * np.float32(70) + top, 0, 255)
        return np.repeat(grey[..., None], 3, axis=2)
    ramp = np.linspace(top, bottom, size, dtype=np.float32)
    return np.repeat(np.repeat(ramp[:, None, None], size, axis=1), 3, axis=2)


def _window(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(0, math.floor(centre - reach)), min(size, math.ceil(centre + reach))


def _shape(thing: SceneObject, size: int) -> Layer:
    radius, cx, cy = thing.radius * size, thing.x * size, thing.y * size
    (x0, x1), (y0, y1) = _window(cx, radius + 1, size), _window(cy, radius + 1, size)
    x = ((np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - cx)) / np.float32(radius))[None, :]
    y = ((np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - cy)) / np.float32(radius))[:, None]
    if thing.angle:
        cos, sin = np.float32(math.cos(math.radians(thing.angle))), np.float32(math.sin(math.radians(thing.angle)))
        x, y = x * cos + y * sin, y * cos - x * sin
    distance = SHAPE[thing.label](x, y) * np.float32(radius)
    colour = np.array(RGB[thing.colour], np.float32)
    if thing.texture == "plain":
        painted = np.broadcast_to(colour, (*distance.shape, 3))
    else:
        dark = np.remainder(y, np.float32(0.6)) < 0.3
        if thing.texture == "dotted":
            dark = (np.remainder(x, np.float32(0.6)) < 0.3) & dark
        painted = np.where(np.broadcast_to(dark, distance.shape)[..., None], colour * np.float32(SHADE), colour)
    return Layer(y0, x0, np.clip(np.float32(0.5) - distance, 0, 1), painted, distance <= 0)


def _cutout(thing: SceneObject, size: int, picture_HWC: Pixels) -> Layer:
    """A picture, cropped to what is opaque, as large as fits into the square of the thing's radius."""
    from PIL import Image

    height, width = picture_HWC.shape[:2]
    scale = 2 * thing.radius * size / max(height, width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    # Colours are weighted with alpha before resizing: what lies under transparent pixels must not bleed in.
    rgba = picture_HWC.astype(np.float32)
    alpha = rgba[..., 3:] / np.float32(255)
    bands = np.concatenate((rgba[..., :3] * alpha, alpha), axis=2)
    small = np.stack([np.asarray(Image.fromarray(bands[..., c]).resize(shape, Image.Resampling.BOX)) for c in range(4)], axis=2)
    cover = np.clip(small[..., 3], 0, 1)
    colour = small[..., :3] / np.maximum(cover, np.float32(1e-3))[..., None]
    left, top = round(thing.x * size - shape[0] / 2), round(thing.y * size - shape[1] / 2)
    left, top = min(max(left, 0), size - shape[0]), min(max(top, 0), size - shape[1])
    return Layer(top, left, cover, np.clip(colour, 0, 255), cover > 0.5)
