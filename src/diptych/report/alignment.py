"""Word heat maps over a picture, as a row of small pictures.

Letters: W words (the whole text first), H W rows and columns of the grid of weights, C channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from diptych.core.errors import ShapeError
from diptych.report.drawing import Label, Outline, PictureOverlay, Pixels, label_size, palette, pixels

SIDE = 240  # longer side of each small picture
COLUMNS = 4
GAP = 6
STRIP = 24  # below each picture, for its word
STRONGEST = 0.75  # share of the colour where a word's weight is highest
LETTERS = 28  # of a label


def alignment_picture(
    pixels_HWC: Pixels,
    words: Sequence[str],
    weight_WHW: npt.NDArray[np.float32],
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    *,
    side: int = SIDE,
) -> Pixels:
    """uint8 RGB. Each word has the picture with its weights laid over, from its lowest (nothing) to its highest, and the best patch framed.

    Colours compare the patches of one word, not two words: the label says the highest weight.
    box  the part of the picture under the grid, as shares of its sides
    """
    if weight_WHW.ndim != 3 or len(words) != len(weight_WHW) or not words:
        raise ShapeError(
            f"{len(words)} words and weights {list(weight_WHW.shape)} (expected [words, rows, columns], one word or more)"
        )
    panels = [_panel(pixels_HWC, word, grid_HW, box, side) for word, grid_HW in zip(words, weight_WHW, strict=True)]
    height, width = panels[0].shape[:2]
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    ground = ImageColor.getrgb(palette()["panel"])
    canvas_HWC = np.empty((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.uint8)
    canvas_HWC[:] = ground
    for index, panel_HWC in enumerate(panels):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas_HWC[top : top + height, left : left + width] = panel_HWC
    return canvas_HWC


def panel_size(pixels_HWC: Pixels, side: int = SIDE) -> tuple[int, int]:
    """Height and width of each small picture, without the strip for its word."""
    scale = side / max(pixels_HWC.shape[:2])
    height, width = (max(1, round(size * scale)) for size in pixels_HWC.shape[:2])
    return height, width


def _panel(
    pixels_HWC: Pixels, word: str, grid_HW: npt.NDArray[np.float32], box: tuple[float, float, float, float], side: int
) -> Pixels:
    height, width = panel_size(pixels_HWC, side)
    small = max(pixels_HWC.shape[:2]) < side / 2
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    shown = Image.fromarray(pixels_HWC).resize((width, height), how)
    x0, y0, x1, y1 = (part * size for part, size in zip(box, (width, height, width, height), strict=True))
    low, high = float(grid_HW.min()), float(grid_HW.max())
    share_HW = (grid_HW - low) / (high - low) if high > low else np.zeros_like(grid_HW)
    cover = Image.new("L", (width, height), 0)
    patches = Image.fromarray((share_HW * 255 * STRONGEST).round().astype(np.uint8))
    size = max(1, round(x1 - x0)), max(1, round(y1 - y0))
    cover.paste(patches.resize(size, Image.Resampling.NEAREST), (round(x0), round(y0)))
    shown.paste(Image.new("RGB", (width, height), ImageColor.getrgb(palette()["s1"])), (0, 0), cover)
    panel = Image.new("RGB", (width, height + STRIP), ImageColor.getrgb(palette()["panel"]))
    panel.paste(shown)
    drawing = PictureOverlay(width, height + STRIP, picture_HWC=np.asarray(panel), fixed=True)
    if high > low:
        row, column = (int(index) for index in np.unravel_index(int(grid_HW.argmax()), grid_HW.shape))
        wide, tall = (x1 - x0) / grid_HW.shape[1], (y1 - y0) / grid_HW.shape[0]
        left, top = x0 + column * wide, y0 + row * tall
        drawing.shapes.append(Outline((left, top, left + wide, top + tall), "white"))
    name = word if len(word) <= LETTERS else word[: LETTERS - 1] + "…"
    text = f"{name}  {high:.2f}"
    font = min(13.0, 13.0 * (width - 8) / max(1.0, label_size([text])[0]))
    drawing.shapes.append(Label((width / 2, height + STRIP / 2), ((text, "ink"),), size=font))
    return pixels(drawing)
