"""Label map over its picture, with the names and colours of its classes beside it.

Letters: H W pixels, K classes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError
from diptych.report.drawing import Label, Outline, PictureOverlay, Pixels, label_size, pixels

SIDE = 448
GOLDEN = 0.618033988749895
STEP = 24.0


def class_colours(count: int) -> npt.NDArray[np.uint8]:
    """Colours of classes, [K, 3]: hues that are far apart from one class to the next; the same for the same number on every picture."""
    colours = [colorsys.hsv_to_rgb((k * GOLDEN) % 1.0, 0.65 if k % 2 else 0.9, 0.95 if k % 3 else 0.7) for k in range(count)]
    return (np.array(colours).reshape(-1, 3) * 255).astype(np.uint8)


def overlaid(pixels_HWC: Pixels, label_HW: npt.NDArray[np.integer], classes: int, *, share: float = 0.55) -> Pixels:
    """Picture with the colour of each pixel's class mixed in; pixels of no class (255 or below 0) stay as they are."""
    if label_HW.shape != pixels_HWC.shape[:2]:
        raise ShapeError(
            f"a label map of {list(label_HW.shape)} for a picture of {list(pixels_HWC.shape[:2])} (expected one size)"
        )
    there = (label_HW >= 0) & (label_HW < classes)
    colour_HWC = class_colours(classes)[np.where(there, label_HW, 0)]
    mixed_HWC = ((1 - share) * pixels_HWC + share * colour_HWC).astype(np.uint8)
    shown_HWC: Pixels = np.where(there[..., None], mixed_HWC, pixels_HWC)
    return shown_HWC


def segment_picture(
    pixels_HWC: Pixels, label_HW: npt.NDArray[np.integer], names: Sequence[str], *, side: int = SIDE, dark: bool = False
) -> Pixels:
    """Overlaid picture, its longer side `side` pixels, and the classes that occur in it, the largest first."""
    height, width = pixels_HWC.shape[:2]
    scale = side / max(height, width)
    counts = np.bincount(label_HW[(label_HW >= 0) & (label_HW < len(names))].astype(np.int64).ravel(), minlength=len(names))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    lines = [f"{names[k]}  {100 * counts[k] / label_HW.size:.0f} %" for k in order]
    wide = max([label_size((line,))[0] for line in lines], default=0.0) + 2 * STEP
    left = round(width * scale)
    tall = max(round(height * scale), round(STEP * (len(lines) + 1)))
    drawing = PictureOverlay(left + round(wide), tall)
    for row, line in enumerate(lines):
        y = STEP * (row + 0.75)
        drawing.shapes.append(Label((left + STEP + label_size((line,))[0] / 2 + 8, y), ((line, "ink"),), ground="panel"))
        drawing.shapes.append(Outline((left + 8, y - 7, left + 22, y + 7), "soft", 1.0))
    whole_HWC = pixels(drawing, dark=dark).copy()  # one pixel a unit
    _paste(whole_HWC, overlaid(pixels_HWC, label_HW, len(names)), round(height * scale), left)
    for row, k in enumerate(order):
        y = round(STEP * (row + 0.75)) - 6
        whole_HWC[y : y + 12, left + 9 : left + 21] = class_colours(len(names))[k]
    return whole_HWC


def _paste(whole_HWC: Pixels, part_HWC: Pixels, height: int, width: int) -> None:
    """Part, resized by the nearest pixel so that edges of classes stay sharp, at the top left."""
    y = np.arange(height) * len(part_HWC) // max(1, height)
    x = np.arange(width) * part_HWC.shape[1] // max(1, width)
    whole_HWC[:height, :width] = part_HWC[y][:, x]
