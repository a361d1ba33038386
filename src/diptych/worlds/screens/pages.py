"""Pages as data: elements, where they lie, how they are drawn and what a page of HTML with them is."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from diptych.core.errors import ConfigError
from diptych.data.canvas.font import open_font

Kind = Literal["button", "field", "icon"]
KINDS: tuple[Kind, ...] = ("button", "field", "icon")
COLOURS = {
    "red": (200, 40, 40),
    "green": (30, 140, 60),
    "blue": (40, 80, 200),
    "orange": (230, 130, 20),
    "purple": (130, 50, 160),
    "grey": (110, 110, 110),
}
LABELS = {
    "button": ("Save", "Send", "Open", "Next", "Login", "Edit", "Share", "Print"),
    "field": ("Name", "Email", "City", "Phone", "Date", "Price", "Title", "Code"),
    "icon": ("star", "disc", "arrow", "cross"),
}
VERBS = {"button": "click the", "field": "type into the", "icon": "open the"}
Asked = Literal["colour", "label"]


@dataclass(frozen=True, slots=True)
class Element:
    """Something on a page. box: x0, y0, x1, y1 from 0 to 1, y downwards."""

    kind: Kind
    label: str
    colour: str
    box: tuple[float, float, float, float]

    def instruction(self, asked: Asked) -> str:
        """Instruction to act on it, by its colour or its label."""
        return f"{VERBS[self.kind]} {self.colour if asked == 'colour' else self.label} {self.kind}"


@dataclass(frozen=True, slots=True)
class Page:
    """A page and the element that its instruction means."""

    elements: tuple[Element, ...]
    target: int
    instruction: str


def page(rng: np.random.Generator, *, elements: int = 5, columns: int = 2, rows: int = 4, asked: Asked = "colour") -> Page:
    """A page of elements in cells of a grid, each somewhere in its own. What an instruction says is true of one element alone."""
    if not 1 <= elements <= columns * rows:
        raise ConfigError(f"elements is {elements} (expected 1 to {columns * rows}, one for each cell)")
    instructions: set[str] = set()
    made: list[Element] = []
    for cell in rng.permutation(columns * rows)[:elements].tolist():
        while True:
            kind = KINDS[int(rng.integers(len(KINDS)))]
            label = LABELS[kind][int(rng.integers(len(LABELS[kind])))]
            colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
            one = Element(kind, label, colour, _box(rng, kind, cell % columns, cell // columns, columns, rows))
            if one.instruction(asked) not in instructions:
                break
        instructions.add(one.instruction(asked))
        made.append(one)
    target = int(rng.integers(elements))
    return Page(tuple(made), target, made[target].instruction(asked))


def _box(
    rng: np.random.Generator, kind: str, column: int, row: int, columns: int, rows: int
) -> tuple[float, float, float, float]:
    wide, high = 1 / columns, 1 / rows
    width = wide * float(rng.uniform(0.5, 0.9)) if kind != "icon" else high * 0.7
    height = high * (0.7 if kind == "icon" else float(rng.uniform(0.45, 0.7)))
    x0 = column * wide + float(rng.uniform(0.03, 0.97)) * (wide - width)
    y0 = row * high + float(rng.uniform(0.03, 0.97)) * (high - height)
    return (x0, y0, x0 + width, y0 + height)


# ---------------------------------------------------------------- pictures


def drawn(made: Page, size: int) -> npt.NDArray[np.uint8]:
    """[size, size, 3]: the page drawn by Pillow, twice as large and made smaller."""
    big = 2 * size
    canvas = Image.new("RGB", (big, big), (250, 250, 250))
    pen = ImageDraw.Draw(canvas)
    for one in made.elements:
        x0, y0, x1, y1 = (value * big for value in one.box)
        colour = COLOURS[one.colour]
        font = open_font("", max(6, round((y1 - y0) * 0.55)))
        if one.kind == "button":
            pen.rounded_rectangle((x0, y0, x1, y1), (y1 - y0) / 4, fill=colour)
            pen.text(((x0 + x1) / 2, (y0 + y1) / 2), one.label, fill=(255, 255, 255), font=font, anchor="mm")
        elif one.kind == "field":
            pen.rectangle((x0, y0, x1, y1), fill=(255, 255, 255), outline=colour, width=max(2, big // 64))
            pen.text((x0 + (x1 - x0) / 12, (y0 + y1) / 2), one.label, fill=(90, 90, 90), font=font, anchor="lm")
        else:
            pen.polygon([(x0 + x * (x1 - x0), y0 + y * (y1 - y0)) for x, y in ICONS[one.label]], fill=colour)
    return np.asarray(canvas.resize((size, size), Image.Resampling.LANCZOS))


def _star() -> tuple[tuple[float, float], ...]:
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    radius = np.tile([0.5, 0.2], 5)
    return tuple((float(0.5 + r * np.cos(a)), float(0.5 + r * np.sin(a))) for a, r in zip(angle, radius, strict=True))


ICONS: dict[str, tuple[tuple[float, float], ...]] = {
    "star": _star(),
    "disc": tuple((0.5 + 0.5 * float(np.cos(a)), 0.5 + 0.5 * float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 24, endpoint=False)),
    "arrow": ((0, 0.35), (0.5, 0.35), (0.5, 0.0), (1, 0.5), (0.5, 1), (0.5, 0.65), (0, 0.65)),
    "cross": (
        (0.35, 0), (0.65, 0), (0.65, 0.35), (1, 0.35), (1, 0.65), (0.65, 0.65), (0.65, 1), (0.35, 1), (0.35, 0.65), (0, 0.65), (0, 0.35),
        (0.35, 0.35),
    ),
}  # fmt: skip
"""Outlines of icons in their boxes."""


def to_html(made: Page, size: int) -> str:
    """The page as HTML of `size` pixels, with real buttons and inputs where the elements lie."""
    parts = []
    for number, one in enumerate(made.elements):
        x0, y0, x1, y1 = (value * size for value in one.box)
        css = f"left:{x0:.2f}px;top:{y0:.2f}px;width:{x1 - x0:.2f}px;height:{y1 - y0:.2f}px;font-size:{(y1 - y0) * 0.5:.1f}px"
        colour, label, name = "rgb({},{},{})".format(*COLOURS[one.colour]), html.escape(one.label), f'id="e{number}"'
        if one.kind == "button":
            parts.append(f'<button {name} style="{css};background:{colour};color:white;border:0">{label}</button>')
        elif one.kind == "field":
            parts.append(f'<input {name} placeholder="{label}" style="{css};border:2px solid {colour}">')
        else:
            points = " ".join(f"{x * 100:.1f},{y * 100:.1f}" for x, y in ICONS[one.label])
            parts.append(
                f'<svg {name} viewBox="0 0 100 100" preserveAspectRatio="none" style="{css}">'
                f'<polygon points="{points}" fill="{colour}"/></svg>'
            )
    style = "body{margin:0;background:rgb(250,250,250)}body>*{position:absolute;box-sizing:border-box;padding:0 2px;margin:0}"
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style><body>{"".join(parts)}</body>'
