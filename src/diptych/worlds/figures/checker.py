"""Geometric check of a generated picture of two figures: key points, the relation that limbs encode, and whose colour is where.

Pixels get the nearest colour of the world's palette. A figure's pixels are compared with the drawing of the figure that was
asked for; nothing
is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.worlds.figures.poses import RELATIONS, key_points
from diptych.worlds.figures.world import StickFigure, figure_coverage
from diptych.worlds.related.world import BACKGROUND, COLOURS

FARTHEST = 0.25
"""A key point without a pixel of its figure nearby is counted as so far away, as a share of the picture's side."""
SHARE = 0.5
"""Of a figure's pixels that lie in its own half, at least, where its colour is in the right place."""


@dataclass(frozen=True, slots=True)
class FigureCheck:
    """Verdict on a generated picture of two figures.

    key_point_error  mean distance between limbs that were asked for and pixels of the figure's colour, both ways, as shares of the side
    relation         the drawing of the asked relation is nearer than those of all others
    identities       each figure's colour is on its own side, and there is no third colour of more pixels than either
    """

    key_point_error: float
    relation: bool
    identities: bool


def check_figures(pixels_HWC: npt.NDArray[np.uint8], wanted: Sequence[StickFigure], relation: str) -> FigureCheck:
    """Compare a picture with two figures, from left to right, in a relation."""
    if len(wanted) != 2 or relation not in RELATIONS:
        raise DataError(f"{len(wanted)} figures, relation {relation!r}", field="predicate", expected=" | ".join(RELATIONS))
    palette_K3 = np.array([*COLOURS.values(), (BACKGROUND,) * 3], np.float32)
    nearest_HW = np.square(pixels_HWC[..., None, :].astype(np.float32) - palette_K3).sum(-1).argmin(-1)
    masks = [nearest_HW == list(COLOURS).index(figure.colour) for figure in wanted]
    errors = {name: _error(masks, posed(wanted, name)) for name in RELATIONS}
    asked = float(np.mean([_distance(mask_HW, figure) for mask_HW, figure in zip(masks, wanted, strict=True)]))
    return FigureCheck(asked, min(errors, key=errors.__getitem__) == relation, _identities(nearest_HW, masks, wanted))


def posed(pair: Sequence[StickFigure], relation: str) -> list[StickFigure]:
    """The same two figures, around the same middle, in the poses of a relation."""
    middle = np.mean([figure.point_KP[0, 0] for figure in pair])
    left, right, distance = RELATIONS[relation]
    figures = []
    for figure, pose, side in zip(pair, (left, right), (-0.5, 0.5), strict=True):
        top = figure.point_KP[0, 1] - 0.12 * figure.height
        x = float(middle) + side * distance * figure.height
        figures.append(StickFigure(figure.colour, key_points(pose, x, float(top), figure.height), figure.height))
    return figures


def _error(masks: Sequence[npt.NDArray[np.bool_]], figures: Sequence[StickFigure]) -> float:
    return float(np.mean([_distance(mask_HW, figure) for mask_HW, figure in zip(masks, figures, strict=True)]))


def _distance(mask_HW: npt.NDArray[np.bool_], figure: StickFigure) -> float:
    """Mean of two distances: from each key point to the nearest pixel of the figure, and from each of its pixels to the nearest
    of the drawing."""
    from scipy import ndimage

    height, width = mask_HW.shape
    if not mask_HW.any():
        return FARTHEST
    drawn_HW = figure_coverage(figure, height) >= 0.5
    to_mask_HW, to_drawn_HW = (ndimage.distance_transform_edt(~part_HW) for part_HW in (mask_HW, drawn_HW))
    x_K, y_K = ((figure.point_KP[:, axis] * size).astype(int).clip(0, size - 1) for axis, size in ((0, width), (1, height)))
    there_K = np.minimum(to_mask_HW[y_K, x_K] / width, FARTHEST)
    stray_N = np.minimum(to_drawn_HW[mask_HW] / width, FARTHEST)
    return float((there_K.mean() + stray_N.mean()) / 2)


def _identities(nearest_HW: npt.NDArray[np.int64], masks: Sequence[npt.NDArray[np.bool_]], wanted: Sequence[StickFigure]) -> bool:
    middle = float(np.mean([figure.point_KP[:, 0].mean() for figure in wanted])) * nearest_HW.shape[1]
    column_W = np.arange(nearest_HW.shape[1]) + 0.5
    sides = (column_W < middle, column_W >= middle)
    area = np.bincount(nearest_HW.ravel(), minlength=len(COLOURS) + 1)[: len(COLOURS)]
    own = [list(COLOURS).index(figure.colour) for figure in wanted]
    others = max((int(count) for number, count in enumerate(area) if number not in own), default=0)
    return all(
        mask_HW.any() and mask_HW[:, side_W].sum() > SHARE * mask_HW.sum() and mask_HW.sum() > others
        for mask_HW, side_W in zip(masks, sides, strict=True)
    )
