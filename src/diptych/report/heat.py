"""Heat map over a picture, with the boxes that were scored by it: the picture of a grounding.

Letters: H W pixels of the picture, C channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from diptych.core.errors import ShapeError
from diptych.core.scene_graph import Region
from diptych.report.drawing import Label, Outline, PictureOverlay, Pixels, label_size, palette, pixels

SIDE = 480  # longer side
STRIP = 26  # below the picture, for the words
STRONGEST = 0.7  # share of the colour where the map is highest


def heat_picture(
    pixels_HWC: Pixels,
    heat_HW: npt.NDArray[np.float32],
    words: str,
    regions: Sequence[Region],
    best: int | None,
    *,
    side: int = SIDE,
) -> Pixels:
    """uint8 RGB: the picture twice, side by side. Left the map, from 0 or less (nothing) to its highest; right the regions, the best one
    strong, with their labels.

    heat_HW  at the picture's own size
    Raises ShapeError if map and picture differ in size.
    """
    if heat_HW.shape != pixels_HWC.shape[:2]:
        raise ShapeError(f"the map is {list(heat_HW.shape)} and the picture {list(pixels_HWC.shape[:2])} (expected one size)")
    scale = side / max(heat_HW.shape)
    height, width = (max(1, round(size * scale)) for size in heat_HW.shape)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    shown = Image.fromarray(pixels_HWC).resize((width, height), how)
    share_HW = np.clip(heat_HW, 0, None) / max(float(heat_HW.max()), 1e-12)
    cover = Image.fromarray((np.clip(share_HW, 0, 1) * 255 * STRONGEST).round().astype(np.uint8)).resize((width, height))
    hot = shown.copy()
    hot.paste(Image.new("RGB", (width, height), ImageColor.getrgb(palette()["s1"])), (0, 0), cover)
    canvas = Image.new("RGB", (2 * width, height + STRIP), ImageColor.getrgb(palette()["panel"]))
    canvas.paste(hot, (0, 0))
    canvas.paste(shown, (width, 0))
    drawing = PictureOverlay(2 * width, height + STRIP, picture_HWC=np.asarray(canvas), fixed=True)
    order = [index for index in range(len(regions)) if index != best] + ([] if best is None else [best])
    for index in order:
        x0, y0, x1, y1 = (end * scale for end in regions[index].box)
        chosen = index == best
        drawing.shapes.append(
            Outline((width + x0, y0, width + x1, y1), "s0" if chosen else "s2", 3.0 if chosen else 1.0, dashed=not chosen)
        )
    font = min(13.0, 13.0 * (2 * width - 8) / max(1.0, label_size([words])[0]))
    drawing.shapes.append(Label((float(width), height + STRIP / 2), ((words, "ink"),), size=font))
    return pixels(drawing)
