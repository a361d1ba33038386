"""Bar chart of the words of a picture, beside the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from diptych.core.errors import ShapeError
from diptych.report.drawing import Pixels, palette

SIDE = 320  # longer side of the picture
BAR = 240  # length of the longest bar
ROW = 20
GAP = 16
LETTERS = 24  # of a word that are shown
FONT = 13


def word_bars(pixels_HWC: Pixels, words: Sequence[str], weights: Sequence[float], *, side: int = SIDE) -> Pixels:
    """uint8 RGB: the picture left, a line per word right, in the order given; the longest bar is the largest weight."""
    if len(words) != len(weights):
        raise ShapeError(f"{len(words)} words and {len(weights)} weights (expected equally many)")
    colours = {name: ImageColor.getrgb(value) for name, value in palette().items()}
    scale = side / max(pixels_HWC.shape[:2])
    height, width = (max(1, round(size * scale)) for size in pixels_HWC.shape[:2])
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    font = ImageFont.load_default(FONT)
    names = [word if len(word) <= LETTERS else word[: LETTERS - 1] + "…" for word in words]
    margin = max([font.getlength(name) for name in names], default=0)
    left = width + GAP + round(margin) + 8
    canvas = Image.new("RGB", (left + BAR + 60, max(height, ROW * max(1, len(words)))), colours["panel"])
    canvas.paste(Image.fromarray(pixels_HWC).resize((width, height), how), (0, 0))
    pen = ImageDraw.Draw(canvas)
    most = max([*weights, 1e-12])
    for row, (name, weight) in enumerate(zip(names, weights, strict=True)):
        top, middle = row * ROW + 3, row * ROW + ROW / 2
        length = round(BAR * weight / most)
        pen.text((left - 8, middle), name, colours["ink"], font, anchor="rm")
        pen.rectangle((left, top, left + max(length, 1), top + ROW - 7), colours["s1"])
        pen.text((left + length + 6, middle), f"{weight:.3f}", colours["ink"], font, anchor="lm")
    if not words:
        pen.text((left, ROW / 2), "no word", colours["ink"], font, anchor="lm")
    return np.asarray(canvas)
