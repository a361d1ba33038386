"""Tiles seen from above with captions in ten languages: planes, ships, buildings and roads on land and water, at any rotation.

`world:overhead`. A caption counts what is there and names the ground; turning the picture changes no word of it and cuts off nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.masks import encode
from diptych.worlds.overhead.drawing import LAND, Line, OverheadObject, draw_roads, draw_things, ground_of, mask_of, window_of
from diptych.worlds.overhead.lexicon import COLOURS, GROUNDS, KINDS, LANGUAGES, MOST, KindCount, caption
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of

NAME = "overhead"
RADIUS = {"plane": 0.14, "ship": 0.15, "building": 0.12}
"""Of a thing, in shares of the side of a tile."""
ROAD_WIDTH = 0.11
SHORE_GAP = 0.02
TRIES = 60
Split = Literal["train", "val", "test"]
Turned = Literal["any", "upright"]


@dataclass(frozen=True, slots=True)
class OverheadView:
    """A tile before it is drawn: what its caption counts, the ground, and where everything lies, in pixels."""

    mentions: tuple[KindCount, ...]
    ground: str
    things: tuple[OverheadObject, ...]
    land: str
    shore: Line | None
    roads: tuple[Line, ...]


@dataclass(frozen=True)
class OverheadWorld:
    """The configuration.

    size       side in pixels
    languages  of the captions, a caption for each
    turned     "any": fronts point anywhere, roads and shores run at any angle; "upright": fronts point right, roads and shores run from
               left to right, as in pictures that were taken and cropped with one orientation
    regions    samples carry box, mask, kind and colour of each thing
    """

    seed: int = 0
    size: int = 64
    languages: tuple[str, ...] = LANGUAGES
    turned: Turned = "any"
    regions: bool = False

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024 or not self.languages or self.turned not in ("any", "upright"):
            raise ConfigError(
                f"size {self.size}, {len(self.languages)} languages, turned {self.turned!r} "
                "(expected 32..1024 pixels, one or more, any | upright)"
            )
        for language in self.languages:
            if language not in LANGUAGES:
                raise UnknownName("language", language, LANGUAGES)

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def group(self, split: str, index: int) -> str:
        """The English caption: what all captions of a tile say."""
        mentions, ground = contents(self._rng(split, index))
        return caption(mentions, ground, "en")

    def view(self, split: str, index: int) -> OverheadView:
        """Contents and layout of a tile."""
        return _laid_out(self._rng(split, index), self.size, self.turned)[0]

    def sample(self, split: str, index: int) -> Sample:
        view, rng = _laid_out(self._rng(split, index), self.size, self.turned)
        frame = (self.size, self.size)
        ground_HWC = ground_of(rng, frame, view.land, view.shore)
        if view.roads:
            ground_HWC = draw_roads(ground_HWC, view.roads, ROAD_WIDTH * self.size)
        pixels_HWC = draw_things(ground_HWC, view.things)
        uid = uid_of(NAME, self.seed, split, index)
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            tuple(Text(caption(view.mentions, view.ground, tag), tag) for tag in self.languages),
            regions=tuple(_region(thing, frame) for thing in view.things) if self.regions else (),
            group=caption(view.mentions, view.ground, "en"),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={
                "split": split,
                "label": view.mentions[0].kind,
                "ground": view.ground,
                "angles": [round(thing.angle, 2) for thing in view.things],
            },
        )

    def _rng(self, split: str, index: int) -> np.random.Generator:
        return keyed_rng(NAME, self.seed, split, index)


def _region(thing: OverheadObject, frame: tuple[int, int]) -> Region:
    left, top, right, bottom = window_of(thing, frame)
    return Region((left, top, right, bottom), thing.kind, (thing.colour,), mask=encode(mask_of(thing, frame)))


def contents(rng: np.random.Generator) -> tuple[tuple[KindCount, ...], str]:
    """Counts of kinds and the ground: one or two kinds of thing, four things at most; ships lie on water and all else on land."""
    ground = GROUNDS[int(rng.integers(len(GROUNDS)))]
    kinds = [kind for kind in KINDS if ground == "coast" or (kind == "ship") == (ground == "water")]
    first, second = (int(number) for number in rng.integers(0, 1 << 30, 2))
    kind = kinds[first % len(kinds)]
    count, more = 1 + int(rng.integers(MOST)), 1 + int(rng.integers(2))
    colours = [COLOURS[int(number)] for number in rng.integers(0, len(COLOURS), 2)]
    mentions = [KindCount(kind, count, colours[0])]
    others = [other for other in (*kinds, *(["road"] if ground != "water" else [])) if other != kind]
    if others and second % 3:
        other = others[(second // 3) % len(others)]
        mentions.append(KindCount(other) if other == "road" else KindCount(other, min(more, 4 - count), colours[1]))
    return tuple(mentions), ground


def _laid_out(rng: np.random.Generator, side: int, turned: Turned) -> tuple[OverheadView, np.random.Generator]:
    """The view of these random numbers, and the generator behind it. A layout without room is drawn again."""
    mentions, ground = contents(rng)
    land = "water" if ground == "water" else LAND[int(rng.integers(2))] if ground == "coast" else ground
    wanted = [mention for mention in mentions if mention.kind != "road" for _ in range(mention.count)]
    while True:
        shore = line_at(rng, side, turned, spread=0.08) if ground == "coast" else None
        roads = (_road(rng, side, turned, shore),) if any(mention.kind == "road" for mention in mentions) else ()
        things: list[OverheadObject] = []
        for random_4 in rng.random((TRIES, 4)).tolist():
            mention = wanted[len(things)]
            thing = thing_at(random_4, mention.kind, mention.colour, side, RADIUS[mention.kind] * side, turned)
            if fits(thing, things, shore, roads, ROAD_WIDTH * side):
                things.append(thing)
            if len(things) == len(wanted):
                return OverheadView(mentions, ground, tuple(things), land, shore, roads), rng


def line_at(rng: np.random.Generator, side: int, turned: Turned, *, spread: float) -> Line:
    """A line through the middle of a view, moved by up to a share of its side; its first side and its angle are random."""
    angle = float(rng.uniform(0, 2 * math.pi)) if turned == "any" else math.pi / 2
    normal = (math.cos(angle), math.sin(angle))
    shift = float(rng.uniform(-spread, spread)) * side
    return Line(normal, side / 2 * (normal[0] + normal[1]) + shift)


def _road(rng: np.random.Generator, side: int, turned: Turned, shore: Line | None) -> Line:
    """A road; beside a shore it runs along it, on land."""
    if shore is None:
        return line_at(rng, side, turned, spread=0.25)
    return Line(shore.normal, shore.offset - float(rng.uniform(0.12, 0.34)) * side)


def thing_at(random_4: Sequence[float], kind: str, colour: str, side: int, radius: float, turned: Turned) -> OverheadObject:
    """A thing of about that radius within the circle that a view of that side holds, so that turning the view cuts off none; from four
    random numbers below 1: its size, distance from the middle, bearing and angle."""
    size, share, bearing, front = random_4
    radius *= 0.85 + 0.3 * size
    distance = (side / 2 - radius) * math.sqrt(share)
    x, y = side / 2 + distance * math.cos(2 * math.pi * bearing), side / 2 + distance * math.sin(2 * math.pi * bearing)
    return OverheadObject(kind, colour, x, y, radius, 360 * front if turned == "any" else 0.0)


def fits(
    thing: OverheadObject, others: list[OverheadObject], shore: Line | None, roads: tuple[Line, ...], road_width: float
) -> bool:
    """True where a thing meets no other, no road, and lies on its side of the shore: ships on water, all else on land."""
    if any(math.hypot(thing.x - o.x, thing.y - o.y) < 0.95 * (thing.radius + o.radius) for o in others):
        return False
    if any(abs(road.distance(thing.x, thing.y)) < road_width / 2 + 0.85 * thing.radius for road in roads):
        return False
    if shore is None:
        return True
    distance = shore.distance(thing.x, thing.y) * (1 if thing.kind == "ship" else -1)
    return distance > thing.radius * (1 + SHORE_GAP)


def overhead(
    n: int = 4000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    languages: tuple[str, ...] = LANGUAGES,
    turned: Turned = "any",
    regions: bool = False,
) -> RenderedDataset:
    """The first `n` tiles of one split; see `OverheadWorld`."""
    world = OverheadWorld(seed, size, tuple(languages), turned, regions)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
