"""Picture of the patches that image tokens stand for: outlines of the tokens, and each token's mean colour.

Letters: T frames, H W rows and columns of patches, C channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from diptych.core.errors import ShapeError
from diptych.report.drawing import Pixels, palette

SIDE = 384  # of a picture, about
GAP = 6


def token_source_picture(
    pictures: Sequence[Pixels], owner_THW: npt.NDArray[np.int64], box: tuple[float, float, float, float], *, side: int = SIDE
) -> Pixels:
    """uint8 RGB: a row for each frame, left the picture with a line between patches of different tokens, right each token's mean colour.

    owner_THW  token of each patch, -1 for none, which stays dark on the right
    box        part of each picture under the grid, as shares of its sides
    Raises ShapeError if pictures and frames differ in number.
    """
    if owner_THW.ndim != 3 or len(pictures) != len(owner_THW):
        raise ShapeError(f"{len(pictures)} pictures for owners {list(owner_THW.shape)} (expected [pictures, rows, columns])")
    rows, columns = owner_THW.shape[1:]
    cell = max(4, round(side / max(rows, columns)))
    shown = np.stack([_part(pixels_HWC, box, columns * cell, rows * cell) for pixels_HWC in pictures])
    owner = owner_THW.repeat(cell, 1).repeat(cell, 2)
    filled = _mean_colours(shown, owner)
    edge = np.zeros(owner.shape, bool)
    edge[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    edge[:, :, 1:] |= owner[:, :, 1:] != owner[:, :, :-1]
    outlined = np.where(edge[..., None], np.uint8(255), shown)
    height, width = owner.shape[1:]
    canvas = np.empty((len(pictures) * (height + GAP) - GAP, 2 * width + GAP, 3), np.uint8)
    canvas[:] = ImageColor.getrgb(palette()["panel"])
    for row in range(len(pictures)):
        top = row * (height + GAP)
        canvas[top : top + height, :width] = outlined[row]
        canvas[top : top + height, width + GAP :] = filled[row]
    return canvas


def _part(pixels_HWC: Pixels, box: tuple[float, float, float, float], width: int, height: int) -> Pixels:
    """The part of a picture under the grid; what lies outside it is black."""
    high, wide = pixels_HWC.shape[:2]
    x0, y0, x1, y1 = (round(share * size) for share, size in zip(box, (wide, high, wide, high), strict=True))
    return np.asarray(Image.fromarray(pixels_HWC).crop((x0, y0, x1, y1)).resize((width, height), Image.Resampling.LANCZOS))


def _mean_colours(shown: Pixels, owner: npt.NDArray[np.int64]) -> Pixels:
    """Each pixel as the mean of all pixels of its token, over all frames."""
    flat = owner.ravel() + 1
    count = np.bincount(flat)
    means = np.stack([np.bincount(flat, shown[..., channel].ravel()) / np.maximum(count, 1) for channel in range(3)], -1)
    means[0] = 0
    return means[flat].round().astype(np.uint8).reshape(shown.shape)
