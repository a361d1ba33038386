"""Geometric check of a generated picture of two shapes: which things it shows, their relation, and what leaked into it.

Pixels get the nearest colour of the world's palette. The largest connected part of each colour is a thing, where it is two pixels wide: the
edge between two colours may look like a third. Its shape is that whose drawing overlaps it most. Nothing is learned.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.worlds.related.world import BACKGROUND, COLOURS, DIRECTIONS, RELATIONS, SHAPES, coverage

SMALLEST = 0.008
"""A thing covers at least this share of the picture: 9 of 1,024 pixels."""
AREAS = {"circle": math.pi, "square": 1.6**2, "triangle": 0.75 * 3**0.5, "cross": 4 * 0.95 * 0.6 - 0.6**2}
"""Of each shape with radius 1."""


@dataclass(frozen=True, slots=True, eq=False)
class ShownShape:
    """A thing in a picture. `mask_HW` without the holes that other things make; centre in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    mask_HW: npt.NDArray[np.bool_]

    @property
    def noun(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class PairCheck:
    """Verdict on a generated picture of two shapes.

    relation  the subject's colour stands in the relation to the object's colour
    entities  both things are there, each with its colour and shape
    leaked    a thing has a colour of the exemplars that the prompt does not name
    """

    relation: bool
    entities: bool
    leaked: bool


def shown_shapes(pixels_HWC: npt.NDArray[np.uint8]) -> dict[str, ShownShape]:
    """The largest thing of each colour in a picture of any size, by colour."""
    from scipy import ndimage

    if pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3:
        raise DataError(f"a picture has shape {list(pixels_HWC.shape)}", expected="uint8 [H, W, 3]")
    palette_K3 = np.array([*COLOURS.values(), (BACKGROUND,) * 3], np.float32)
    nearest_HW = np.square(pixels_HWC[..., None, :].astype(np.float32) - palette_K3).sum(-1).argmin(-1)
    shown: dict[str, ShownShape] = {}
    for number, colour in enumerate(COLOURS):
        colour_HW = nearest_HW == number
        solid_HW = ndimage.binary_opening(colour_HW, np.ones((2, 2), bool))
        part_HW, count = ndimage.label(colour_HW)
        if not count:
            continue
        area_K = np.bincount(part_HW[solid_HW], minlength=count + 1)[1:]
        if area_K.max() < SMALLEST * nearest_HW.size:
            continue
        mask_HW = ndimage.binary_fill_holes(part_HW == 1 + int(area_K.argmax()))
        y, x = ndimage.center_of_mass(mask_HW)
        shown[colour] = ShownShape(colour, nearest_shape(mask_HW), x, y, mask_HW)
    return shown


def nearest_shape(mask_HW: npt.NDArray[np.bool_]) -> str:
    """Name of the shape whose drawing of equal area and centre has the largest intersection over union with a mask."""
    size = max(mask_HW.shape)
    y, x = (float(at_N.mean()) + 0.5 for at_N in np.nonzero(mask_HW))
    overlap = {}
    for shape, area in AREAS.items():
        drawn_HW = coverage(shape, x, y, (mask_HW.sum() / area) ** 0.5, size)[: mask_HW.shape[0], : mask_HW.shape[1]] >= 0.5
        overlap[shape] = float((drawn_HW & mask_HW).sum() / (drawn_HW | mask_HW).sum())
    return max(SHAPES, key=overlap.__getitem__)


def relation_between(subject: ShownShape, other: ShownShape) -> str:
    """The relation of two things: "inside" and "around" where one's middle and most of its pixels lie in the other, else one of the
    directions of the world, and "" for a diagonal that it has no name for."""
    for inner, outer, relation in ((subject, other, "inside"), (other, subject, "around")):
        if inner.mask_HW.sum() < outer.mask_HW.sum() and (inner.mask_HW & outer.mask_HW).sum() > 0.7 * inner.mask_HW.sum():
            return relation
    octant = round(math.atan2(subject.y - other.y, subject.x - other.x) / (math.pi / 4)) % 8
    sign = {0: (1, 0), 1: (1, 1), 2: (0, 1), 3: (-1, 1), 4: (-1, 0), 5: (-1, -1), 6: (0, -1), 7: (1, -1)}[octant]
    return next((relation for relation, direction in DIRECTIONS.items() if direction == sign), "")


def check_pair(
    pixels_HWC: npt.NDArray[np.uint8], subject: str, relation: str, other: str, leaks: Collection[str] = ()
) -> PairCheck:
    """Compare a picture with what was asked for.

    subject, other  nouns such as "red circle"
    leaks           colours of the exemplars; those that the prompt names do not count
    """
    if relation not in RELATIONS:
        raise DataError(f"no relation {relation!r}", field="predicate", expected=" | ".join(RELATIONS))
    shown = shown_shapes(pixels_HWC)
    pair = [shown.get(noun.split()[0]) for noun in (subject, other)]
    first, second = pair
    return PairCheck(
        relation=first is not None and second is not None and relation_between(first, second) == relation,
        entities=all(thing is not None and thing.noun == noun for thing, noun in zip(pair, (subject, other), strict=True)),
        leaked=any(colour in leaks and colour not in (subject.split()[0], other.split()[0]) for colour in shown),
    )
