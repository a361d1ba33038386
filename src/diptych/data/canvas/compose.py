"""Compositions of pictures and text: text below or above a picture, stacked pictures, and their variants.

Sizes are those of In-Image Learning (Wang et al., 2024, 2402.17971) and its published code: the canvas is as wide as the picture
(1.8 times as wide where that is below 250 pixels; the picture keeps its size), text of 20 pixels begins 20 pixels from the left,
and a line is as high as the box around the whole text. Nothing is resampled but by `resized`.

Letters: H W pixels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from diptych.core.errors import ConfigError
from diptych.data.canvas.font import open_font, refuse_missing
from diptych.data.canvas.wrapping import measured_lines, released_lines
from diptych.data.media.decode import Pixels

Wrap = Literal["measured", "released"]
Side = Literal["below", "above"]
Place = Literal["left", "centre"]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
NARROW, WIDENED = 250, 1.8
"""Pixels below which a canvas is made wider, and how much."""
EDGE = 10
"""Pixels right of the text, and around a picture that is put anywhere."""


@dataclass(frozen=True)
class Lettering:
    """Font, size, side and wrapping of text drawn on a canvas.

    text_size  pixels
    bold       the bold font
    text_side  "below" or "above" the picture
    wrap       "measured": lines as wide as they are drawn; "released": as the published code estimates them
    font       a font file; "" takes the packaged DejaVu Sans
    indent     pixels left of the text
    """

    text_size: int = 20
    bold: bool = False
    text_side: Side = "below"
    wrap: Wrap = "measured"
    font: str = ""
    indent: int = 20

    def __post_init__(self) -> None:
        if self.text_side not in get_args(Side) or self.wrap not in get_args(Wrap):
            raise ConfigError(
                f"text_side is {self.text_side!r}, wrap {self.wrap!r} "
                f"(expected {' | '.join(get_args(Side))}; {' | '.join(get_args(Wrap))})"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """A picture with text.

    pixels_HWC   uint8
    image_box    where the picture lies: x0, y0, x1, y1 in pixels
    lines        the text as it was broken
    line_height  pixels; line i begins `line_height * i` below the first
    text_top     y of the first line
    """

    pixels_HWC: Pixels
    image_box: tuple[int, int, int, int]
    lines: tuple[str, ...]
    line_height: int
    text_top: int


def with_text(
    picture_HWC: Pixels,
    text: str,
    lettering: Lettering = Lettering(),
    *,
    image_place: Place = "centre",
    width: int = 0,
    height: int = 0,
) -> Canvas:
    """A picture with text on a white canvas.

    width, height  of the canvas and of its part for the picture at least, in pixels
    Raises ConfigError for a letter that the font does not have.
    """
    font = open_font(lettering.font, lettering.text_size, bold=lettering.bold)
    refuse_missing(font, text)
    text = text.replace("\r\n", "\n")
    own_height, own_width = picture_HWC.shape[:2]
    whole = max(width, own_width)
    canvas_width = int(WIDENED * whole) if whole < NARROW else whole
    if lettering.wrap == "released":
        limit = whole - EDGE
        lines = released_lines(text, font, int(WIDENED * limit) if limit < NARROW else limit)
    else:
        lines = measured_lines(text, font, canvas_width - lettering.indent - EDGE)
    line_height = math.ceil(font.getbbox(text)[3])
    canvas = Image.new("RGB", (canvas_width, max(height, own_height) + len(lines) * line_height), WHITE)
    above = lettering.text_side == "above"
    x = int((canvas_width - own_width) / 2) if image_place == "centre" else 0
    y = len(lines) * line_height if above else 0
    canvas.paste(Image.fromarray(picture_HWC), (x, y))
    draw = ImageDraw.Draw(canvas)
    text_top = 0 if above else own_height
    for number, line in enumerate(lines):
        draw.text((lettering.indent, text_top + number * line_height), line, fill=BLACK, font=font)
    return Canvas(np.asarray(canvas), (x, y, x + own_width, y + own_height), tuple(lines), line_height, text_top)


def stacked(pictures: Sequence[Pixels], align: Place = "left") -> Pixels:
    """Pictures below each other on white, as wide as the widest, none of them resampled."""
    if not pictures or align not in get_args(Place):
        raise ConfigError(f"{len(pictures)} pictures to stack at {align!r} (expected one or more; {' | '.join(get_args(Place))})")
    width = max(picture.shape[1] for picture in pictures)
    canvas_HWC = np.full((sum(picture.shape[0] for picture in pictures), width, 3), 255, np.uint8)
    top = 0
    for picture_HWC in pictures:
        left = (width - picture_HWC.shape[1]) // 2 if align == "centre" else 0
        canvas_HWC[top : top + picture_HWC.shape[0], left : left + picture_HWC.shape[1]] = picture_HWC
        top += picture_HWC.shape[0]
    return canvas_HWC


def put_at(base_HWC: Pixels, picture_HWC: Pixels, x: int, y: int) -> Pixels:
    """Paste `picture` over `base` with its corner at x, y, on a canvas that holds both and 10 pixels after the picture."""
    if x < 0 or y < 0:
        raise ConfigError(f"a picture put at {x}, {y} (expected 0 or more)")
    height, width = picture_HWC.shape[:2]
    canvas_HWC = np.full((max(base_HWC.shape[0], height + y + EDGE), max(base_HWC.shape[1], width + x + EDGE), 3), 255, np.uint8)
    canvas_HWC[: base_HWC.shape[0], : base_HWC.shape[1]] = base_HWC
    canvas_HWC[y : y + height, x : x + width] = picture_HWC
    return canvas_HWC


def resized(picture_HWC: Pixels, area: float) -> Pixels:
    """A picture of `area` times the area: both sides by its root, rounded down; bicubic, as Pillow does by default."""
    if area <= 0:
        raise ConfigError(f"area is {area} (expected above 0; 1 changes nothing)")
    height, width = picture_HWC.shape[:2]
    rate = math.sqrt(area)
    size = max(1, int(width * rate)), max(1, int(height * rate))
    return picture_HWC if size == (width, height) else np.asarray(Image.fromarray(picture_HWC).resize(size))


def turned(picture_HWC: Pixels, degrees: float = 45.0) -> Pixels:
    """A picture turned to the left about its middle, with white corners, whole."""
    return np.asarray(Image.fromarray(picture_HWC).rotate(degrees, expand=True, fillcolor=WHITE))


def upper_part(picture_HWC: Pixels, parts: int = 3) -> Pixels:
    """The first of this many parts of a picture from the top."""
    return picture_HWC[: int(picture_HWC.shape[0] / parts)]
