"""Links: three or four shapes, two of them pairs joined by a drawn line whose relation is to be found.

A grey line joins subject and object, a red dot marks the subject. A predicate is two words, near or far and a direction, so a
name that never occurs in training ("near above") is made of words that do: the smallest test bed for relations with unseen names.
With two links per scene, recall@5 can reach 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.masks import Mask, box_of, encode
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of
from diptych.worlds.scenes.captions import with_article
from diptych.worlds.scenes.layout import COLOURS, Scene, SceneObject
from diptych.worlds.scenes.rendering import Field, Pixels, render

NAME = "links"
Split = Literal["train", "val", "test"]
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PREDICATES = tuple(f"{reach} {way}" for reach in ("near", "far") for way in ("left of", "right of", "above", "below"))
HELD_OUT = ("near above", "far left of")
FAR = 0.45  # centre distance, as a share of the side, where "far" begins
MARGIN = 0.03  # no distance lies this close to the border between near and far, nor any direction near a diagonal
LINE = (150.0, 150.0, 150.0)
DOT = (235.0, 20.0, 20.0)


@dataclass(frozen=True)
class LinkWorld:
    """The configuration of a links world. `hold_out` predicates never occur in split "train"."""

    seed: int = 0
    size: int = 64
    hold_out: tuple[str, ...] = HELD_OUT

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"size is {self.size} (expected 32..1024 pixels)")
        for predicate in self.hold_out:
            if predicate not in PREDICATES:
                raise UnknownName("predicate", predicate, PREDICATES)
        if len(self.hold_out) > 4:
            raise ConfigError(f"hold_out names {len(self.hold_out)} of 8 predicates (expected at most 4)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def scene(self, split: str, index: int) -> tuple[Scene, list[tuple[int, int]]]:
        """Shapes and the linked pairs (subject, object)."""
        dice = SceneRandom.of_scene(NAME, self.seed, split, index)
        avoid = self.hold_out if split == "train" else ()
        while True:
            things = _things(dice)
            pairs = [
                (i, j)
                for i in range(len(things))
                for j in range(len(things))
                if (name := predicate(things[i], things[j])) and name not in avoid and _line_is_free(things, i, j)
            ]
            chosen: list[tuple[int, int]] = []
            for pair in dice.shuffled(pairs):
                if len(chosen) < 2 and pair[::-1] not in chosen:
                    chosen.append(pair)
            if len(chosen) == 2:
                return Scene(things, "", "noise", (0.2, 0.2), dice.seed()), sorted(chosen)

    def group(self, split: str, index: int) -> str:
        return _caption(*self.scene(split, index))

    def sample(self, split: str, index: int) -> Sample:
        """Render one scene. The caption names both links; `relations` are the two links and nothing else."""
        scene, links = self.scene(split, index)
        drawing = render(scene, self.size)
        pixels = _draw_links(drawing.pixels_HWC, scene, links, drawing.whole_NHW)
        regions = tuple(
            Region(box, thing.label, (thing.colour,), mask=encode(mask))
            for thing, mask in zip(scene.things, drawing.whole_NHW, strict=True)
            if (box := box_of(mask)) is not None
        )
        caption = _caption(scene, links)
        uid = uid_of(NAME, self.seed, split, index)
        return Sample(
            uid=uid,
            image=ArrayImage(pixels, uid),
            texts=(Text(caption, "en"),),
            regions=regions,
            relations=tuple(Relation(i, predicate(scene.things[i], scene.things[j]), j) for i, j in links),
            group=caption,
            licence="CC0-1.0",
            source="world:links",
            extras={"split": split, "held_out": [predicate(scene.things[i], scene.things[j]) in self.hold_out for i, j in links]},
        )


def predicate(subject: SceneObject, other: SceneObject) -> str:
    """Predicate of a pair, two words, or "" when it is too close to a border to be named."""
    dx, dy = subject.x - other.x, subject.y - other.y
    distance = math.hypot(dx, dy)
    if distance == 0 or abs(distance - FAR) < MARGIN or abs(abs(dx) - abs(dy)) < 2 * MARGIN:
        return ""
    sideways, upright = "left of" if dx < 0 else "right of", "above" if dy < 0 else "below"
    return f"{'far' if distance > FAR else 'near'} {sideways if abs(dx) > abs(dy) else upright}"


def _things(dice: SceneRandom) -> tuple[SceneObject, ...]:
    """Three or four shapes of different nouns that do not meet."""
    count = dice.between(3, 4)
    things: list[SceneObject] = []
    tries = 0
    while len(things) < count:
        tries += 1
        if tries > 200:
            things, tries = [], 0
        new = SceneObject(
            dice.pick(SHAPES),
            dice.pick(COLOURS),
            "medium",
            "plain",
            0.0,
            dice.uniform(0.1, 0.9),
            dice.uniform(0.1, 0.9),
            len(things),
        )
        if all(math.hypot(new.x - t.x, new.y - t.y) > 2.6 * t.radius and new.noun != t.noun for t in things):
            things.append(new)
    return tuple(things)


def _line_is_free(things: tuple[SceneObject, ...], i: int, j: int) -> bool:
    """True if no third shape lies on the line between two."""
    return all(_distance(t.x, t.y, things[i], things[j]) > 1.3 * t.radius for k, t in enumerate(things) if k not in (i, j))


def _distance(x: float, y: float, start: SceneObject, end: SceneObject) -> float:
    dx, dy = end.x - start.x, end.y - start.y
    along = min(1.0, max(0.0, ((x - start.x) * dx + (y - start.y) * dy) / (dx * dx + dy * dy)))
    return math.hypot(x - start.x - along * dx, y - start.y - along * dy)


def _caption(scene: Scene, links: list[tuple[int, int]]) -> str:
    sentences = sorted(
        f"{with_article(scene.things[i].noun)} {predicate(scene.things[i], scene.things[j])} {with_article(scene.things[j].noun)}"
        for i, j in links
    )
    return " and ".join(sentences)


def _draw_links(pixels_HWC: Pixels, scene: Scene, links: list[tuple[int, int]], shape_NHW: Mask) -> Pixels:
    """Draw the links: lines pass behind the shapes; the dot is on top of its subject, on the side of the link."""
    size = pixels_HWC.shape[0]
    canvas = pixels_HWC.astype(np.float32)
    centre = np.arange(size, dtype=np.float32) + np.float32(0.5)
    x, y = centre[None, :], centre[:, None]
    free = (~shape_NHW.any(0)).astype(np.float32)
    for i, j in links:
        one, two = scene.things[i], scene.things[j]
        dx, dy = (two.x - one.x) * size, (two.y - one.y) * size
        along = np.clip(((x - one.x * size) * dx + (y - one.y * size) * dy) / (dx * dx + dy * dy), 0, 1)
        off = np.hypot(x - one.x * size - along * dx, y - one.y * size - along * dy)
        _paint(canvas, np.clip(np.float32(size / 80 + 0.5) - off, 0, 1) * free, LINE)
    for i, j in links:
        one, two = scene.things[i], scene.things[j]
        length = math.hypot(two.x - one.x, two.y - one.y)
        px = (one.x + (two.x - one.x) / length * one.radius * 0.8) * size
        py = (one.y + (two.y - one.y) / length * one.radius * 0.8) * size
        _paint(canvas, np.clip(np.float32(size / 32 + 0.5) - np.hypot(x - px, y - py), 0, 1), DOT)
    done: Pixels = (canvas + np.float32(0.5)).astype(np.uint8)
    return done


def _paint(canvas_HWC: Field, cover_HW: Field, colour: tuple[float, float, float]) -> None:
    canvas_HWC += (np.array(colour, np.float32) - canvas_HWC) * cover_HW[..., None]


def links(
    n: int = 8000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    hold_out: tuple[str, ...] = HELD_OUT,
) -> RenderedDataset:
    """The first `n` scenes of one split."""
    world = LinkWorld(seed, size, tuple(hold_out))
    return RenderedDataset(NAME, world, rows_of(world, split, n))
