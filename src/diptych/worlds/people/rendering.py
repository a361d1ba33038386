"""Renderer of persons: pixels, and the body part that each pixel shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from diptych.worlds.people.looks import COLOURS, Appearance, Person, Shade
from diptych.worlds.rendered import generator

HEIGHT, WIDTH = 128, 64
PARTS = ("", "head", "upper", "lower", "shoes", "bag", "skin", "occluder")
"""What a pixel may show; "" is the backdrop."""
SKIN: Shade = (214, 170, 140)
Points = Sequence[tuple[float, float]]


class _Canvas:
    """Draws each shape twice: its colour, and its part's number. Points are in body units: x 0 is the middle and 1 half a picture, y runs
    from 0 at the crown to 1 at the soles."""

    def __init__(self, seen: Appearance) -> None:
        self.picture = Image.new("RGB", (WIDTH, HEIGHT), seen.backdrop)
        self.parts = Image.new("L", (WIDTH, HEIGHT), 0)
        self._colour, self._part, self._look = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.parts), seen

    def polygon(self, part: str, shade: Shade, points: Points) -> None:
        placed = [self._placed(x, y) for x, y in points]
        self._colour.polygon(placed, fill=shade)
        self._part.polygon(placed, fill=PARTS.index(part))

    def box(self, part: str, shade: Shade, x0: float, y0: float, x1: float, y1: float) -> None:
        self.polygon(part, shade, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    def ellipse(self, part: str, shade: Shade, x0: float, y0: float, x1: float, y1: float) -> None:
        corners = [self._placed(x0, y0), self._placed(x1, y1)]
        self._colour.ellipse(corners, fill=shade)
        self._part.ellipse(corners, fill=PARTS.index(part))

    def _placed(self, x: float, y: float) -> tuple[float, float]:
        seen, tall = self._look, 0.92 * HEIGHT
        x = x * WIDTH / 2 * seen.scale + seen.lean * WIDTH * (1 - y)
        return WIDTH / 2 + x + seen.shift[0], 0.04 * HEIGHT + y * tall * seen.scale + seen.shift[1]


def rendered(person: Person, seen: Appearance, noise_seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Pixels uint8 [HEIGHT, WIDTH, 3], and the part map [HEIGHT, WIDTH] with indices into `PARTS`."""
    canvas = _Canvas(seen)
    canvas.polygon("", _darker(seen.backdrop, 0.8), [(-3, 0.93), (3, 0.93), (3, 2), (-3, 2)])
    if person.bag == "backpack" and seen.facing == "front":
        canvas.box("bag", COLOURS["grey"], -0.36, 0.19, 0.36, 0.42)
    _legs(canvas, person, seen)
    _torso(canvas, person)
    _arms(canvas, person, seen)
    _head(canvas, person, seen)
    _bag(canvas, person, seen)
    pixels_HWC, part_HW = np.asarray(canvas.picture).astype(np.float64), np.asarray(canvas.parts).copy()
    if seen.occluder:
        hidden = np.zeros((HEIGHT, WIDTH), np.bool_)
        if seen.occluder == "low":
            hidden[int(0.8 * HEIGHT) :] = True
        else:
            hidden[:, int(0.72 * WIDTH) :] = True
        pixels_HWC[hidden] = _darker(seen.backdrop, 0.55)
        part_HW[hidden] = PARTS.index("occluder")
    noise_HWC = generator(noise_seed).normal(0.0, seen.noise, pixels_HWC.shape)
    pixels_HWC = np.clip(pixels_HWC * np.asarray(seen.gain) + noise_HWC, 0, 255)
    if seen.mirrored:
        pixels_HWC, part_HW = pixels_HWC[:, ::-1], part_HW[:, ::-1]
    return np.ascontiguousarray(pixels_HWC.astype(np.uint8)), np.ascontiguousarray(part_HW)


def _legs(canvas: _Canvas, person: Person, seen: Appearance) -> None:
    apart = 0.2 if seen.action == "walking" else 0.1
    shade, shoes = COLOURS[person.lower_colour], COLOURS[person.shoe_colour]
    for side in (-1, 1):
        foot = side * (apart + (0.08 if seen.action == "walking" and side > 0 else 0.0))
        canvas.polygon("skin", SKIN, [(side * 0.02, 0.5), (side * 0.22, 0.5), (foot + 0.09, 0.95), (foot - 0.09, 0.95)])
        end = {"trousers": 0.94, "shorts": 0.7, "skirt": 0.6}[person.lower]
        reach = (end - 0.5) / 0.45
        knee = [side * 0.12 * (1 - reach) + foot * reach + width for width in (0.13, -0.13)]
        canvas.polygon("lower", shade, [(-side * 0.02, 0.48), (side * 0.26, 0.48), (knee[side < 0], end), (knee[side > 0], end)])
        canvas.box("shoes", shoes, foot - 0.13, 0.93, foot + 0.15, 1.0)
    if person.lower == "skirt":
        canvas.polygon("lower", shade, [(-0.24, 0.47), (0.24, 0.47), (0.4, 0.7), (-0.4, 0.7)])


def _torso(canvas: _Canvas, person: Person) -> None:
    shoulder, waist = (0.42, 0.3) if person.gender == "man" else (0.33, 0.22)
    end = 0.68 if person.upper == "coat" else 0.52
    hip = 0.36 if person.upper == "coat" else waist + (0.02 if person.gender == "man" else 0.06)
    shade = COLOURS[person.upper_colour]
    canvas.polygon("upper", shade, [(-shoulder, 0.18), (shoulder, 0.18), (waist, 0.42), (hip, end), (-hip, end), (-waist, 0.42)])
    if person.upper == "striped shirt":
        stripe = _darker(shade, 0.45)
        for row in range(4):
            y = 0.22 + 0.075 * row
            canvas.box("upper", stripe, -waist, y, waist, y + 0.03)
    if person.upper in ("jacket", "coat"):
        canvas.box("upper", _darker(shade, 0.5), -0.02, 0.18, 0.03, end)


def _arms(canvas: _Canvas, person: Person, seen: Appearance) -> None:
    shoulder = 0.4 if person.gender == "man" else 0.32
    swing = 0.12 if seen.action == "walking" else 0.04
    long = person.upper in ("jacket", "coat", "striped shirt")
    for side in (-1, 1):
        hand = side * (shoulder + swing)
        canvas.polygon(
            "skin", SKIN, [(side * shoulder, 0.2), (side * (shoulder + 0.14), 0.22), (hand + 0.07, 0.52), (hand - 0.07, 0.52)]
        )
        end = 0.48 if long else 0.31
        reach = (end - 0.2) / 0.32
        middle = side * shoulder * (1 - reach) + hand * reach + side * 0.05
        canvas.polygon(
            "upper",
            _darker(COLOURS[person.upper_colour], 0.88),
            [(side * (shoulder - 0.06), 0.18), (side * (shoulder + 0.15), 0.21), (middle + 0.1, end), (middle - 0.1, end)],
        )


def _head(canvas: _Canvas, person: Person, seen: Appearance) -> None:
    hair = COLOURS[person.hair_colour]
    if person.hair == "long":
        canvas.polygon("head", hair, [(-0.2, 0.05), (0.2, 0.05), (0.25, 0.25), (-0.25, 0.25)])
    canvas.box("skin", SKIN, -0.07, 0.13, 0.07, 0.19)
    canvas.ellipse("head", hair, -0.21, 0.0, 0.21, 0.145)
    if seen.facing == "front":
        canvas.ellipse("skin", SKIN, -0.155, 0.045, 0.155, 0.155)
    if person.hat:
        canvas.polygon("head", COLOURS["red"], [(-0.21, 0.055), (-0.17, 0.0), (0.17, 0.0), (0.21, 0.055)])
        canvas.box("head", COLOURS["red"], -0.21, 0.045, 0.33, 0.062)


def _bag(canvas: _Canvas, person: Person, seen: Appearance) -> None:
    if person.bag == "backpack" and seen.facing == "back":
        canvas.box("bag", COLOURS["grey"], -0.24, 0.2, 0.24, 0.42)
        canvas.box("bag", _darker(COLOURS["grey"], 0.6), -0.17, 0.31, 0.17, 0.39)
    if person.bag == "handbag":
        canvas.box("bag", COLOURS["brown"], 0.42, 0.5, 0.78, 0.64)
        canvas.box("bag", COLOURS["brown"], 0.54, 0.44, 0.62, 0.52)


def _darker(shade: Shade, factor: float) -> Shade:
    return int(shade[0] * factor), int(shade[1] * factor), int(shade[2] * factor)
