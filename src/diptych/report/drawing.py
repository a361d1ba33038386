"""Vector drawing of rectangles, arrows and labels over a picture, as SVG, as pixels, or as plain values for a page.

Colours are names of the page's palette ("ink", "panel", "s0", "good"), so that an SVG follows light and dark by itself and pixels
are drawn for either. Lengths are in units of the drawing.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from diptych.data.media.decode import encode_webp
from diptych.report.escape import escape
from diptych.report.page import style

Pixels = npt.NDArray[np.uint8]
Point = tuple[float, float]
Rect = tuple[float, float, float, float]  # x0, y0, x1, y1

FONT = 13.0
LEADING = 1.25  # line height, in font sizes
PAD = 4.0  # between a label's text and its edge
HEAD = 10.0  # length of an arrow head
SMOOTH = 3  # pixels are drawn this many times too large and averaged


@dataclass(frozen=True, slots=True)
class Outline:
    """The edge of a rectangle."""

    rect: Rect
    colour: str
    width: float = 2.0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """A line through points with a head at the last one and a dot at the first. `halo` sets it off from a picture below."""

    points: tuple[Point, ...]
    colour: str
    width: float = 2.0
    dashed: bool = False
    halo: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """Lines of (text, colour) on a rounded patch whose centre is at `centre`."""

    centre: Point
    lines: tuple[tuple[str, str], ...]
    ground: str = "panel"
    edge: str = ""
    size: float = FONT

    @property
    def rect(self) -> Rect:
        width, height = label_size([text for text, _ in self.lines], self.size)
        x, y = self.centre
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2


Shape = Outline | Arrow | Label


@dataclass(frozen=True, slots=True)
class PictureOverlay:
    """Shapes over a picture that fills the drawing, in the order in which they cover each other.

    fixed   colours are those of the light page, regardless of the page: for drawings that lie on a photograph
    """

    width: float
    height: float
    shapes: list[Shape] = field(default_factory=list)
    picture_HWC: Pixels | None = None
    fixed: bool = False


def label_size(lines: Sequence[str], size: float = FONT) -> Point:
    """Width and height of a label."""
    return max(_text_width(line, size) for line in lines) + 2 * PAD, len(lines) * LEADING * size + PAD


@cache
def palette(dark: bool = False) -> dict[str, str]:
    """Colour names and their values, as the style sheet of the pages has them."""
    light, _, rest = style().partition("@media(prefers-color-scheme:dark)")
    colours = dict(re.findall(r"--(\w+):(#[0-9a-fA-F]{3,6})", light.partition("}")[0]))
    if dark:
        colours |= dict(re.findall(r"--(\w+):(#[0-9a-fA-F]{3,6})", rest.partition("}}")[0]))
    return colours | {"white": "#ffffff"}


# ---------------------------------------------------------------- SVG


def svg(drawing: PictureOverlay, title: str) -> str:
    """An SVG element for a page; `title` is what a screen reader says."""
    parts = []
    if drawing.picture_HWC is not None:
        uri = "data:image/webp;base64," + base64.b64encode(encode_webp(drawing.picture_HWC, quality=88)).decode()
        small = max(drawing.picture_HWC.shape[:2]) < max(drawing.width, drawing.height) / 2
        sharp = ' style="image-rendering:pixelated"' if small else ""
        size = f'width="{drawing.width:g}" height="{drawing.height:g}"'
        parts.append(f'<image href="{uri}" {size} preserveAspectRatio="none"{sharp}/>')
    fixed = palette() if drawing.fixed else {}
    parts += [_svg_shape(shape, fixed) for shape in drawing.shapes]
    box = f"0 0 {drawing.width:g} {drawing.height:g}"
    width = f"max-width:{drawing.width:g}px"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}" style="{width}">{"".join(parts)}</svg>'


def _svg_shape(shape: Shape, fixed: dict[str, str]) -> str:
    def colour(name: str) -> str:
        return fixed.get(name) or ("#fff" if name == "white" else f"var(--{name})")

    match shape:
        case Outline(rect, name, width, dashed):
            dash = f' stroke-dasharray="{3 * width:g} {2 * width:g}"' if dashed else ""
            return f'<rect {_svg_rect(rect)} fill="none" stroke="{colour(name)}" stroke-width="{width:g}" rx="2"{dash}/>'
        case Arrow(points, name, width, dashed, halo):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _shaft(points))
            dash = f' stroke-dasharray="{3 * width:g} {2 * width:g}"' if dashed else ""
            head = " ".join(f"{x:.1f},{y:.1f}" for x, y in _head(points))
            x, y = points[0]
            ring = ' stroke="#fff" stroke-width="1.5" paint-order="stroke"' if halo else ""
            below = f'<polyline points="{path}" fill="none" stroke="#fff" stroke-width="{width + 3:g}"/>' if halo else ""
            return (
                f'{below}<polyline points="{path}" fill="none" stroke="{colour(name)}" stroke-width="{width:g}"{dash}/>'
                f'<polygon points="{head}" fill="{colour(name)}"{ring}/>'
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width * 1.6:g}" fill="{colour(name)}"{ring}/>'
            )
        case Label(lines=lines, ground=ground, edge=edge, size=size):
            x0, y0, x1, _ = shape.rect
            stroke = f' stroke="{colour(edge)}"' if edge else ""
            texts = [
                f'<text x="{(x0 + x1) / 2:.1f}" y="{y0 + PAD / 2 + (row + 0.8) * LEADING * size:.1f}" text-anchor="middle" '
                f'style="font-size:{size:g}px;fill:{colour(name)}" textLength="{_text_width(text, size):.1f}" '
                f'lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
                for row, (text, name) in enumerate(lines)
            ]
            return f'<rect {_svg_rect(shape.rect)} rx="4" fill="{colour(ground)}"{stroke}/>{"".join(texts)}'


def _svg_rect(rect: Rect) -> str:
    x0, y0, x1, y1 = rect
    return f'x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0, 0):.1f}" height="{max(y1 - y0, 0):.1f}"'


# ---------------------------------------------------------------- plain values


def plain(drawing: PictureOverlay) -> dict[str, Any]:
    """Shapes as plain values, for a page that draws them itself; the picture is left out. Colours stay names of the palette."""
    return {
        "width": drawing.width,
        "height": drawing.height,
        "fixed": drawing.fixed,
        "shapes": [_plain_shape(shape) for shape in drawing.shapes],
    }


def _plain_shape(shape: Shape) -> dict[str, Any]:
    match shape:
        case Outline(rect, name, width, dashed):
            return {"kind": "outline", "rect": _rounded(rect), "colour": name, "width": width, "dashed": dashed}
        case Arrow(points, name, width, dashed, halo):
            line = {"line": [_rounded(p) for p in _shaft(points)], "head": [_rounded(p) for p in _head(points)]}
            return {"kind": "arrow", **line, "colour": name, "width": width, "dashed": dashed, "halo": halo}
        case Label(lines=lines, ground=ground, edge=edge, size=size):
            x0, y0, x1, _ = shape.rect
            rows = [
                {
                    "text": text,
                    "colour": name,
                    "x": round((x0 + x1) / 2, 1),
                    "y": round(y0 + PAD / 2 + (row + 0.8) * LEADING * size, 1),
                    "length": round(_text_width(text, size), 1),
                }
                for row, (text, name) in enumerate(lines)
            ]
            return {"kind": "label", "rect": _rounded(shape.rect), "lines": rows, "ground": ground, "edge": edge, "size": size}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 1) for value in values]


# ---------------------------------------------------------------- pixels


def pixels(drawing: PictureOverlay, *, dark: bool = False) -> Pixels:
    """Rasterised drawing, uint8 RGB [H, W, 3], one pixel a unit; without a picture on the colour of the page's panels."""
    colours = palette(dark and not drawing.fixed)
    size = round(drawing.width), round(drawing.height)
    if drawing.picture_HWC is None:
        canvas = Image.new("RGB", size, colours["panel"])
    else:
        height, width = drawing.picture_HWC.shape[:2]
        small = max(height, width) < max(size) / 2
        how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        canvas = Image.fromarray(drawing.picture_HWC).resize(size, how)
    cover = Image.new("RGBA", (size[0] * SMOOTH, size[1] * SMOOTH), (0, 0, 0, 0))
    pen = ImageDraw.Draw(cover)
    for shape in drawing.shapes:
        _paint(pen, shape, colours)
    # Averaging needs colours that are weighted by how much they cover; straight RGBA would leave dark rims.
    soft = cover.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")
    canvas.paste(soft, (0, 0), soft)
    return np.asarray(canvas)


def _paint(pen: ImageDraw.ImageDraw, shape: Shape, colours: dict[str, str]) -> None:
    def fill(name: str) -> tuple[int, ...]:
        return ImageColor.getrgb(colours[name])

    def scaled(rect: Rect) -> Rect:
        x0, y0, x1, y1 = (v * SMOOTH for v in rect)
        return x0, y0, max(x0, x1), max(y0, y1)

    match shape:
        case Outline(rect, name, width, dashed):
            x0, y0, x1, y1 = rect
            corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))
            _stroke(pen, corners, fill(name), width, dashed)
        case Arrow(points, name, width, dashed, halo):
            shaft, head, (x, y) = _shaft(points), _head(points), points[0]
            dot = width * 1.6
            if halo:
                _stroke(pen, shaft, fill("white"), width + 3, False)
                _stroke(pen, (*head, head[0]), fill("white"), 3, False)
                pen.ellipse(scaled((x - dot - 1, y - dot - 1, x + dot + 1, y + dot + 1)), fill("white"))
            _stroke(pen, shaft, fill(name), width, dashed)
            pen.polygon([(px * SMOOTH, py * SMOOTH) for px, py in head], fill(name))
            pen.ellipse(scaled((x - dot, y - dot, x + dot, y + dot)), fill(name))
        case Label(lines=lines, ground=ground, edge=edge, size=size):
            x0, y0, x1, _ = shape.rect
            outline = fill(edge) if edge else None
            pen.rounded_rectangle(scaled(shape.rect), 4 * SMOOTH, fill(ground), outline, SMOOTH)
            font = _font(size * SMOOTH)
            for row, (text, name) in enumerate(lines):
                anchor = ((x0 + x1) / 2 * SMOOTH, (y0 + PAD / 2 + (row + 0.8) * LEADING * size) * SMOOTH)
                pen.text(anchor, text, fill(name), font, anchor="ms")


def _stroke(pen: ImageDraw.ImageDraw, points: Sequence[Point], colour: tuple[int, ...], width: float, dashed: bool) -> None:
    pieces = _dashes(points, 3 * width, 2 * width) if dashed else [list(points)]
    for piece in pieces:
        pen.line([(x * SMOOTH, y * SMOOTH) for x, y in piece], colour, round(width * SMOOTH), joint="curve")


def _dashes(points: Sequence[Point], on: float, off: float) -> list[list[Point]]:
    """Dashed line, cut into strokes of length `on` with gaps of length `off`."""
    pieces: list[list[Point]] = []
    left, drawing = on, True
    piece = [points[0]]
    for (x0, y0), (x1, y1) in pairwise(points):
        length, done = math.hypot(x1 - x0, y1 - y0), 0.0
        while length - done > left:
            done += left
            cut = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if drawing:
                pieces.append([*piece, cut])
            drawing, left, piece = not drawing, off if drawing else on, [cut]
        left -= length - done
        piece.append((x1, y1))
    return [*pieces, piece] if drawing and len(piece) > 1 else pieces


# ---------------------------------------------------------------- shared


def _shaft(points: Sequence[Point]) -> tuple[Point, ...]:
    """Line of an arrow without the part that the head covers."""
    kept = list(points)
    end = kept[-1]
    while len(kept) > 2 and math.dist(kept[-1], end) < HEAD * 0.7:
        kept.pop()
    return tuple(kept)


def _head(points: Sequence[Point]) -> tuple[Point, Point, Point]:
    end = points[-1]
    back = next((p for p in reversed(points[:-1]) if math.dist(p, end) >= HEAD), points[0])
    length = math.dist(back, end) or 1.0
    dx, dy = (end[0] - back[0]) / length, (end[1] - back[1]) / length
    base, half = (end[0] - dx * HEAD, end[1] - dy * HEAD), HEAD * 0.45
    return end, (base[0] - dy * half, base[1] + dx * half), (base[0] + dy * half, base[1] - dx * half)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=8192)
def _text_width(text: str, size: float) -> float:
    return float(_font(size).getlength(text))
