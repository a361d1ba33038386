"""Kinds of solids: what parts each has, with proportions that are drawn. y is up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diptych.worlds.solids.primitives import Part

Draw = Callable[[float, float], float]
Maker = Callable[[Draw], list[Part]]


def _legs(x: float, z: float, top: float, thick: float) -> list[Part]:
    corners = [(a, b) for a in (-x, x) for b in (-z, z)]
    return [Part("box", (thick, top / 2, thick), (a, top / 2, b), role=1) for a, b in corners]


def _table(u: Draw) -> list[Part]:
    x, z, top = u(0.7, 1.0), u(0.5, 0.8), u(0.7, 1.0)
    return [Part("box", (x, 0.07, z), (0, top, 0)), *_legs(x * 0.85, z * 0.85, top, 0.07)]


def _chair(u: Draw) -> list[Part]:
    x, top, back = u(0.4, 0.5), u(0.5, 0.7), u(0.5, 0.7)
    return [
        Part("box", (x, 0.06, x), (0, top, 0)),
        *_legs(x * 0.85, x * 0.85, top, 0.06),
        Part("box", (x, back / 2, 0.06), (0, top + back / 2, -x)),
    ]


def _stool(u: Draw) -> list[Part]:
    x, top = u(0.4, 0.55), u(0.7, 1.0)
    return [Part("cylinder", (x, 0.08, x), (0, top, 0)), *_legs(x * 0.6, x * 0.6, top, 0.06)]


def _bench(u: Draw) -> list[Part]:
    x, top = u(1.0, 1.4), u(0.4, 0.5)
    ends = [Part("box", (0.08, top / 2, 0.3), (side * x * 0.8, top / 2, 0), role=1) for side in (-1, 1)]
    return [Part("box", (x, 0.07, 0.32), (0, top, 0)), *ends]


def _lamp(u: Draw) -> list[Part]:
    tall, shade = u(1.2, 1.6), u(0.4, 0.6)
    pole = [
        Part("cylinder", (0.05, tall / 2, 0.05), (0, tall / 2, 0), role=1),
        Part("cylinder", (0.35, 0.05, 0.35), (0, 0, 0), role=1),
    ]
    return [Part("cone", (shade, 0.3, shade), (0, tall, 0)), *pole]


def _bottle(u: Draw) -> list[Part]:
    wide, tall = u(0.3, 0.4), u(0.5, 0.7)
    return [
        Part("cylinder", (wide, tall, wide), (0, tall, 0)),
        Part("cylinder", (0.13, 0.25, 0.13), (0, 2 * tall + 0.2, 0), role=1),
    ]


def _mug(u: Draw) -> list[Part]:
    wide, tall = u(0.4, 0.55), u(0.4, 0.55)
    return [Part("cylinder", (wide, tall, wide)), Part("ring", (0.3, 0.08, 0.3), (wide + 0.15, 0, 0), "z", role=1)]


def _hammer(u: Draw) -> list[Part]:
    tall = u(0.8, 1.1)
    return [Part("box", (u(0.4, 0.5), 0.18, 0.18), (0, tall, 0)), Part("cylinder", (0.08, tall, 0.08), role=1)]


def _dumbbell(u: Draw) -> list[Part]:
    wide, end = u(0.6, 0.9), u(0.3, 0.42)
    ends = [Part("ball", (end, end, end), (side * wide, 0, 0)) for side in (-1, 1)]
    return [*ends, Part("cylinder", (0.09, wide, 0.09), axis="x", role=1)]


def _snowman(u: Draw) -> list[Part]:
    low, middle, high = u(0.5, 0.6), u(0.35, 0.42), u(0.22, 0.28)
    first, second = low + middle * 0.9, low + 1.8 * middle + high * 0.8
    return [
        Part("ball", (low,) * 3),
        Part("ball", (middle,) * 3, (0, first, 0)),
        Part("ball", (high,) * 3, (0, second, 0), role=1),
    ]


def _tree(u: Draw) -> list[Part]:
    trunk, wide = u(0.3, 0.5), u(0.5, 0.65)
    crown = [Part("cone", (wide * s, 0.45, wide * s), (0, trunk + 0.4 + k * 0.4, 0)) for k, s in enumerate((1.0, 0.75, 0.5))]
    return [*crown, Part("cylinder", (0.12, trunk / 2, 0.12), (0, trunk / 2, 0), role=1)]


def _house(u: Draw) -> list[Part]:
    x, y, z = u(0.6, 0.8), u(0.4, 0.5), u(0.5, 0.7)
    return [Part("box", (x, y, z), (0, y, 0)), Part("cone", (x * 1.3, 0.35, z * 1.3), (0, 2 * y + 0.35, 0), role=1)]


def _rocket(u: Draw) -> list[Part]:
    wide, tall = u(0.22, 0.3), u(0.7, 0.9)
    fins = [Part("box", (0.22, 0.2, 0.03), (side * wide * 1.3, -tall * 0.8, 0), role=1) for side in (-1, 1)]
    return [Part("cylinder", (wide, tall, wide)), Part("cone", (wide, 0.3, wide), (0, tall + 0.3, 0), role=1), *fins]


def _mushroom(u: Draw) -> list[Part]:
    tall, cap = u(0.4, 0.6), u(0.55, 0.75)
    return [Part("ball", (cap, cap * 0.5, cap), (0, 2 * tall, 0)), Part("cylinder", (0.16, tall, 0.16), (0, tall, 0), role=1)]


def _sword(u: Draw) -> list[Part]:
    blade = u(0.8, 1.1)
    grip = [Part("box", (0.3, 0.05, 0.08), (0, 0, 0), role=1), Part("cylinder", (0.06, 0.2, 0.06), (0, -0.2, 0), role=1)]
    return [Part("box", (0.09, blade, 0.03), (0, blade, 0)), *grip]


def _cross(u: Draw) -> list[Part]:
    thick, arm, tall = u(0.12, 0.18), u(0.5, 0.7), u(0.8, 1.0)
    return [Part("box", (thick, tall, thick)), Part("box", (arm, thick, thick), (0, tall * 0.3, 0), role=1)]


def _arch(u: Draw) -> list[Part]:
    x, y = u(0.6, 0.8), u(0.6, 0.8)
    posts = [Part("box", (0.15, y, 0.2), (side * x, y, 0)) for side in (-1, 1)]
    return [*posts, Part("box", (x + 0.2, 0.14, 0.22), (0, 2 * y, 0), role=1)]


def _ladder(u: Draw) -> list[Part]:
    x, tall = u(0.25, 0.35), u(0.9, 1.1)
    rails = [Part("box", (0.05, tall, 0.05), (side * x, 0, 0)) for side in (-1, 1)]
    return [*rails, *(Part("cylinder", (0.04, x, 0.04), (0, y * tall, 0), "x", role=1) for y in (-0.7, -0.23, 0.23, 0.7))]


def _car(u: Draw) -> list[Part]:
    x, wheel = u(0.8, 1.0), u(0.18, 0.24)
    wheels = [Part("cylinder", (wheel, 0.08, wheel), (a * x * 0.6, 0, b * 0.42), "z", role=1) for a in (-1, 1) for b in (-1, 1)]
    return [Part("box", (x, 0.2, 0.4), (0, 0.25, 0)), Part("box", (x * 0.5, 0.18, 0.36), (0, 0.6, 0)), *wheels]


def _umbrella(u: Draw) -> list[Part]:
    wide, tall = u(0.8, 1.0), u(0.6, 0.75)
    return [Part("cone", (wide, 0.2, wide), (0, 2 * tall, 0)), Part("cylinder", (0.04, tall, 0.04), (0, tall, 0), role=1)]


def _plain(kind: str) -> Maker:
    def make(u: Draw) -> list[Part]:
        a, b = u(0.7, 1.0), u(0.6, 1.0)
        sizes = {"box": (a, b, u(0.6, 1.0)), "ball": (a, a, a), "ring": (a, 0.3 * a, a)}
        return [Part(kind, sizes.get(kind, (0.7 * a, b, 0.7 * a)))]  # type: ignore[arg-type]

    return make


CATEGORIES: dict[str, tuple[Maker, str]] = {
    "ball": (_plain("ball"), ""),
    "box": (_plain("box"), ""),
    "cylinder": (_plain("cylinder"), ""),
    "cone": (_plain("cone"), ""),
    "ring": (_plain("ring"), ""),
    "table": (_table, "legs"),
    "chair": (_chair, "legs"),
    "stool": (_stool, "legs"),
    "bench": (_bench, "legs"),
    "lamp": (_lamp, "foot"),
    "bottle": (_bottle, "neck"),
    "mug": (_mug, "handle"),
    "hammer": (_hammer, "handle"),
    "dumbbell": (_dumbbell, "bar"),
    "snowman": (_snowman, "head"),
    "tree": (_tree, "trunk"),
    "house": (_house, "roof"),
    "rocket": (_rocket, "tip"),
    "mushroom": (_mushroom, "stem"),
    "sword": (_sword, "grip"),
    "cross": (_cross, "arms"),
    "arch": (_arch, "beam"),
    "ladder": (_ladder, "rungs"),
    "car": (_car, "wheels"),
    "umbrella": (_umbrella, "stick"),
}
"""25 categories: what makes their parts, and the word for the parts of the second colour, "" if there are none."""


def parts_of(category: str, stretch: float, rng: np.random.Generator) -> list[Part]:
    """Parts of a solid of this category, its proportions drawn; `stretch` multiplies all heights."""

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    return [stretched(part, stretch) for part in CATEGORIES[category][0](uniform)]


def stretched(part: Part, factor: float) -> Part:
    """The part with its vertical extent and its height multiplied."""
    own = {"y": 1, "x": 2, "z": 0}[part.axis]  # which of its own axes is vertical
    size = tuple(value * (factor if k == own else 1.0) for k, value in enumerate(part.size))
    x, y, z = part.centre
    return Part(part.kind, (size[0], size[1], size[2]), (x, y * factor, z), part.axis, part.role)
