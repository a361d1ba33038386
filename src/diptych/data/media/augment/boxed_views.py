"""Augmentations of a picture and a box in it: crops, flips, shears, shifts and turns. For texts that name positions.

Letters: H W pixels, C channels. Boxes are xyxy pixels of the picture as it is; None is a box of which nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from diptych.core.scene_graph import Box
from diptych.data.media.transforms import crop_box, resized

Pixels = npt.NDArray[np.uint8]
Boxed = tuple[Pixels, Box | None]
GREY = (128, 128, 128)
"""What a shear, shift or turn leaves open is filled with."""
Affine = tuple[float, float, float, float, float, float]


def cropped(
    picture: Boxed,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> Boxed:
    """A random part that covers a share of the area, at [size, size]; a scale from 1 on shows the whole, squashed."""
    image_HWC, box = picture
    if scale[0] >= 1:
        top, left, (height, width) = 0, 0, image_HWC.shape[:2]
    else:
        top, left, height, width = crop_box(image_HWC.shape[0], image_HWC.shape[1], rng, scale, (0.75, 4 / 3))
    part_HWC = image_HWC[top : top + height, left : left + width]
    shown_HWC = part_HWC if part_HWC.shape[:2] == (size, size) else resized(part_HWC, size, interpolation)
    if box is None:
        return shown_HWC, None
    x, y = size / width, size / height
    return shown_HWC, _within(((box[0] - left) * x, (box[1] - top) * y, (box[2] - left) * x, (box[3] - top) * y), size, size)


def mirrored(picture: Boxed) -> Boxed:
    """Left becomes right."""
    image_HWC, box = picture
    width = image_HWC.shape[1]
    return image_HWC[:, ::-1], None if box is None else (width - box[2], box[1], width - box[0], box[3])


def augmented(picture: Boxed, rng: np.random.Generator, *, count: int = 2, level: float = 0.5, chance: float = 0.5) -> Boxed:
    """BLIP's RandAugment: this many operations drawn with replacement, each applied in a share of cases, all at one level of their range.

    They change contrast and brightness and move the picture, but no colour's name. The box goes with the picture. Turns and shears are
    about the middle of the picture, in BLIP's code half a pixel off; and numbers that leave 0..255 are cut there, where its autocontrast
    and sharpness let them wrap.
    """
    for operation in rng.integers(len(OPERATIONS), size=count):
        if rng.random() <= chance:
            picture = OPERATIONS[int(operation)](picture, rng, level)
    return picture


def augmented_alone(image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
    """`augmented` of a picture in which no box is known."""
    return augmented((image_HWC, None), rng)[0]


def moved(picture: Boxed, forward: Affine) -> Boxed:
    """The picture under x' = a x + b y + c, y' = d x + e y + f, at its own size; the box becomes the bounds of what is left of it."""
    image_HWC, box = picture
    height, width = image_HWC.shape[:2]
    matrix_33 = np.array([forward[:3], forward[3:], (0.0, 0.0, 1.0)])
    back = tuple(float(value) for value in np.linalg.inv(matrix_33)[:2].reshape(-1))
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    turned = image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR, fillcolor=GREY)
    if box is None:
        return np.asarray(turned), None
    x0, y0, x1, y1 = box
    corner_43 = np.array([(x0, y0, 1.0), (x1, y0, 1.0), (x1, y1, 1.0), (x0, y1, 1.0)])
    return np.asarray(turned), _bounds((corner_43 @ matrix_33.T)[:, :2], width, height)


def _within(box: Box, width: float, height: float) -> Box | None:
    """The part of a box inside of the picture."""
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _bounds(corner_N2: npt.NDArray[np.float64], width: float, height: float) -> Box | None:
    """Bounds of the part of a convex polygon inside of the picture: it is cut at each side in turn."""
    points = [tuple(point) for point in corner_N2.tolist()]
    for axis, limit, keep_below in ((0, 0.0, False), (0, width, True), (1, 0.0, False), (1, height, True)):
        points = _cut(points, axis, limit, keep_below)
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    return _within((min(xs), min(ys), max(xs), max(ys)), width, height)


def _cut(points: list[Any], axis: int, limit: float, keep_below: bool) -> list[Any]:
    """A polygon's part on one side of a line along the other axis."""
    kept_points = []
    for here, there in zip(points, [*points[1:], *points[:1]], strict=True):
        inside, other = ((point[axis] <= limit) == keep_below or point[axis] == limit for point in (here, there))
        if inside:
            kept_points.append(here)
        if inside != other:
            share = (limit - here[axis]) / (there[axis] - here[axis])
            kept_points.append(tuple(h + share * (t - h) for h, t in zip(here, there, strict=True)))
    return kept_points


def _coloured(change: Callable[[Image.Image, float], Image.Image]) -> Callable[..., Boxed]:
    def applied(picture: Boxed, rng: np.random.Generator, level: float) -> Boxed:
        return np.asarray(change(Image.fromarray(np.ascontiguousarray(picture[0])), level)), picture[1]

    return applied


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[..., Boxed]:
    return _coloured(lambda image, level: kind(image).enhance(level * 1.8 + 0.1))


def _signed(most: float, affine: Callable[[float, int, int], Affine]) -> Callable[..., Boxed]:
    def applied(picture: Boxed, rng: np.random.Generator, level: float) -> Boxed:
        value = level * most * (1 if rng.random() < 0.5 else -1)
        return moved(picture, affine(value, *picture[0].shape[1::-1]))

    return applied


def _turned(degrees: float, width: int, height: int) -> Affine:
    """About the centre."""
    cos, sin = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


OPERATIONS: tuple[Callable[..., Boxed], ...] = (
    _coloured(lambda image, level: image),
    _coloured(lambda image, level: ImageOps.autocontrast(image)),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    _coloured(lambda image, level: ImageOps.equalize(image)),
    _signed(0.3, lambda value, width, height: (1, value, 0, 0, 1, 0)),
    _signed(0.3, lambda value, width, height: (1, 0, 0, value, 1, 0)),
    _signed(10.0, lambda value, width, height: (1, 0, value, 0, 1, 0)),
    _signed(10.0, lambda value, width, height: (1, 0, 0, 0, 1, value)),
    _signed(30.0, _turned),
)
"""Nothing, autocontrast, brightness, sharpness, equalize, shear along x and y, shift by pixels along x and y, turn in degrees: those of
BLIP's pre-training, with its ranges."""
