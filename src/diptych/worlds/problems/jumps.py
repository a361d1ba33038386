"""Eight coloured things with different markers, and a question that takes several steps, in the manner of Pretty-CLEVR (Palm et al., 2018,
1711.08028): `world:jumps`.

"Start at the red thing, jump three times to the nearest thing that was not visited: which marker has the one you are at?" Where the start
is a colour, the answer is a marker, and the other way round. Colours and markers are different in each picture, so that none of them can be
guessed from the others.

>>> scene = jumps(2, seed=0)[0]
>>> len(scene.extras["problem"]["things"]), scene.image.pixels_HWC.shape
(8, (128, 128, 3))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.problems.problem import FIELD, Thing
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of

NAME = "jumps"
Split = Literal["train", "val", "test"]
SIDE, RADIUS = 128, 9
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 127, 14),
    "yellow": (230, 200, 20),
    "green": (44, 160, 44),
    "cyan": (23, 190, 207),
    "blue": (31, 70, 200),
    "purple": (148, 60, 200),
    "black": (20, 20, 20),
}
MARKERS = {"circle": 0, "triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "star": 10, "plus": -1, "cross": -2}
"""Corners of each marker; a star's lie at two distances, 0 is round, and bars have numbers below 0."""


def path(things: Sequence[Thing], start: int, count: int) -> list[int]:
    """Where `count` jumps lead from a thing: each to the nearest one that was not visited."""
    visited = [start]
    for _ in range(count):
        here = things[visited[-1]]
        left = [number for number in range(len(things)) if number not in visited]
        visited.append(min(left, key=lambda number: math.hypot(things[number].x - here.x, things[number].y - here.y)))
    return visited


@dataclass(frozen=True)
class JumpWorld:
    """Things that do not touch. most: jumps of a question, at most."""

    seed: int = 0
    count: int = 8
    most: int = 7

    @property
    def splits(self) -> tuple[str, ...]:
        return get_args(Split)

    @property
    def identity(self) -> Any:
        return {"world": NAME, "seed": self.seed, "count": self.count, "most": self.most}

    def group(self, split: str, index: int) -> str:
        return uid_of(NAME, self.seed, split, index)

    def sample(self, split: str, index: int) -> Sample:
        dice = SceneRandom.of_scene(NAME, self.seed, split, index)
        things = self._things(dice)
        start, count, by_colour = dice.below(len(things)), dice.below(self.most + 1), dice.below(2) == 0
        first, last = things[start], things[path(things, start, count)[-1]]
        problem = {
            "kind": NAME,
            "things": [[thing.x, thing.y, thing.colour, thing.marker] for thing in things],
            "start": first.colour if by_colour else first.marker,
            "jumps": count,
            "answer": last.marker if by_colour else last.colour,
        }
        uid = uid_of(NAME, self.seed, split, index)
        return Sample(
            uid, ArrayImage(draw(things)), licence="CC0-1.0", source=f"world:{NAME}", extras={"split": split, FIELD: problem}
        )

    def _things(self, dice: SceneRandom) -> list[Thing]:
        positions: list[tuple[float, float]] = []
        low, high = RADIUS / SIDE, 1 - RADIUS / SIDE
        while len(positions) < self.count:
            new = round(dice.uniform(low, high), 4), round(dice.uniform(low, high), 4)
            if all(math.dist(new, old) > 2.2 * RADIUS / SIDE for old in positions):
                positions.append(new)
        names = zip(dice.shuffled(list(COLOURS)), dice.shuffled(list(MARKERS)), strict=True)
        return [Thing(x, y, colour, marker) for (x, y), (colour, marker) in zip(positions, names, strict=False)]


def draw(things: Sequence[Thing]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The picture of things on white, uint8 [128, 128, 3]."""
    picture = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for thing in things:
        x, y, colour, corners = thing.x * SIDE, thing.y * SIDE, COLOURS[thing.colour], MARKERS[thing.marker]
        if corners == 0:
            pen.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=colour)
        elif corners > 0:
            radii = [RADIUS, RADIUS * 0.45] if thing.marker == "star" else [RADIUS]
            turns = [(math.pi * (2 * i / corners - 0.5), radii[i % len(radii)]) for i in range(corners)]
            pen.polygon([(x + r * math.cos(turn), y + r * math.sin(turn)) for turn, r in turns], fill=colour)
        else:
            angle = 0.0 if thing.marker == "plus" else math.pi / 4
            for turn in (angle, angle + math.pi / 2):
                dx, dy = RADIUS * math.cos(turn), RADIUS * math.sin(turn)
                pen.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=5)
    return np.asarray(picture, np.uint8).copy()


def jumps(n: int = 2000, *, seed: int = 0, split: Split = "train", count: int = 8, most: int = 0) -> RenderedDataset:
    """The first `n` scenes of one split, of `count` things; `most` jumps (0: as many as there are further things)."""
    if not 2 <= count <= len(COLOURS) or not 0 <= most < count:
        raise ConfigError(f"count is {count} and most {most} (expected 2 to {len(COLOURS)} things, and fewer jumps than things)")
    world = JumpWorld(seed, count, most or count - 1)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
