"""Two coloured shapes in one of eight relations, on 32 pixels: small enough for a diffusion model of two cores.

`world:related` are captioned pictures, "red circle left of blue star". Layouts of the relations in `hold_out` are drawn too, but
no caption names them: those pictures, and a share `plain` of the others, are captioned "red circle and blue star".
`world:exemplars` are pictures of one relation with "{}" in place of its name, as relation inversion reads them.

>>> related(2, seed=0)[0].image.pixels_HWC.shape
(32, 32, 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.masks import box_of, encode
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.rendering import SHAPE

NAME, EXEMPLARS = "related", "exemplars"
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SIDE = 32
COLOURS = {
    "red": (225, 45, 45),
    "green": (45, 180, 70),
    "blue": (60, 90, 235),
    "yellow": (240, 220, 60),
    "purple": (165, 60, 195),
    "white": (245, 245, 245),
}
BACKGROUND = 40
"""Grey level."""
SHAPES = ("circle", "square", "triangle", "cross")
SOLID = ("circle", "square")
"""Shapes that hold another one inside."""
DIRECTIONS = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
    "up left of": (-1, -1),
    "down right of": (1, 1),
}
"""Relation -> where the subject is, seen from the object: x to the right, y down."""
RELATIONS = (*DIRECTIONS, "inside", "around")
RADIUS, LARGE, INNER = (0.15, 0.18), (0.33, 0.37), (0.13, 0.15)
"""Radii as shares of the side: of things beside each other, of a thing around another, and of the one inside."""
FAR = (0.4, 0.46)
"""Distance of two centres along the axis of their relation, as shares of the side; along both for a diagonal one."""
AWRY, MIDDLE = 0.05, 0.06
"""By how much centres are off the axis of their relation at most, and the middle of the pair off that of the picture."""


@dataclass(frozen=True, slots=True)
class PlacedShape:
    """A shape in a picture: its noun, such as "red circle", centre and radius as shares of the side."""

    noun: str
    x: float
    y: float
    radius: float

    @property
    def colour(self) -> str:
        return self.noun.split()[0]

    @property
    def shape(self) -> str:
        return self.noun.split()[1]


@dataclass(frozen=True, slots=True)
class RelatedPair:
    """Subject, object and the relation between them."""

    subject: PlacedShape
    object: PlacedShape
    relation: str

    def caption(self, words: str) -> str:
        """Caption with `words` in place of the relation."""
        return f"{self.subject.noun} {words} {self.object.noun}"


@dataclass(frozen=True)
class RelatedWorld:
    """The configuration.

    relations  layouts that are drawn, equally likely
    hold_out   relations whose name no caption says
    plain      share of the other pictures whose caption says "and" instead of the relation
    colours    colours of the things
    placeholder  captions have "{}" in place of the relation
    """

    seed: int = 0
    relations: tuple[str, ...] = RELATIONS
    hold_out: tuple[str, ...] = ()
    plain: float = 0.2
    colours: tuple[str, ...] = tuple(COLOURS)
    placeholder: bool = False

    def __post_init__(self) -> None:
        for relation in (*self.relations, *self.hold_out):
            if relation not in RELATIONS:
                raise UnknownName("relation", relation, RELATIONS)
        for colour in self.colours:
            if colour not in COLOURS:
                raise UnknownName("colour", colour, COLOURS)
        if not self.relations or len(set(self.colours)) < 2 or not 0 <= self.plain <= 1:
            raise ConfigError(
                f"{len(self.relations)} relations, {len(set(self.colours))} colours, plain {self.plain} "
                "(expected one relation or more, two colours or more, and a share)"
            )

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    @property
    def name(self) -> str:
        return EXEMPLARS if self.placeholder else NAME

    def drawn(self, split: str, index: int) -> tuple[RelatedPair, str]:
        """The pair of a row and its caption."""
        rng = keyed_rng(NAME, self.seed, split, index)
        relation = self.relations[int(rng.integers(len(self.relations)))]
        pair = placed_pair(rng, relation, self.colours)
        hidden = relation in self.hold_out or rng.random() < self.plain
        return pair, pair.caption("{}" if self.placeholder else "and" if hidden else relation)

    def group(self, split: str, index: int) -> str:
        pair, _ = self.drawn(split, index)
        return pair.caption(pair.relation)

    def sample(self, split: str, index: int) -> Sample:
        (pair, caption), uid = self.drawn(split, index), uid_of(self.name, self.seed, split, index)
        pixels_HWC, masks = render_pair(pair)
        regions = tuple(
            Region(box, thing.shape, (thing.colour,), mask=encode(mask_HW))
            for thing, mask_HW in zip((pair.subject, pair.object), masks, strict=True)
            if (box := box_of(mask_HW)) is not None
        )
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            (Text(caption, "en"),),
            regions=regions,
            relations=(Relation(0, pair.relation, 1),),
            group=pair.caption(pair.relation),
            licence="CC0-1.0",
            source=f"world:{self.name}",
            extras={
                "split": split,
                "label": pair.subject.noun,
                "relation": {"subject": pair.subject.noun, "predicate": pair.relation, "object": pair.object.noun},
            },
        )


def placed_pair(rng: np.random.Generator, relation: str, colours: Sequence[str] = tuple(COLOURS)) -> RelatedPair:
    """A random pair of things of two colours in this relation."""
    names = [colours[int(at)] for at in rng.choice(len(colours), 2, replace=False)]
    shapes = [SHAPES[int(at)] for at in rng.integers(len(SHAPES), size=2)]
    if relation in DIRECTIONS:
        dx, dy = DIRECTIONS[relation]
        offset = [sign * rng.uniform(*FAR) if sign else rng.uniform(-AWRY, AWRY) for sign in (dx, dy)]
        radii = rng.uniform(*RADIUS, size=2)
    else:
        outer = 0 if relation == "around" else 1
        shapes[outer] = SOLID[int(rng.integers(len(SOLID)))]
        radii = np.array([rng.uniform(*(LARGE if side == outer else INNER)) for side in (0, 1)])
        offset = [rng.uniform(-AWRY, AWRY) / 2 for _ in range(2)]
    # The middle of the pair moves a little, and both stay inside.
    centres = []
    for along in offset:
        lowest = max(0.5 - MIDDLE, radii[0] - along / 2, radii[1] + along / 2)
        highest = min(0.5 + MIDDLE, 1 - radii[0] - along / 2, 1 - radii[1] + along / 2)
        middle = rng.uniform(lowest, highest)
        centres.append((middle + along / 2, middle - along / 2))
    subject, other = (
        PlacedShape(f"{names[side]} {shapes[side]}", float(centres[0][side]), float(centres[1][side]), float(radii[side]))
        for side in (0, 1)
    )
    return RelatedPair(subject, other, relation)


def render_pair(
    pair: RelatedPair, size: int = SIDE
) -> tuple[npt.NDArray[np.uint8], tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """uint8 [size, size, 3] and the visible masks [size, size] of subject and object. The smaller thing is in front."""
    canvas_HWC = np.full((size, size, 3), BACKGROUND, np.float32)
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    for thing in sorted((pair.subject, pair.object), key=lambda thing: -thing.radius):
        cover_HW = coverage(thing.shape, thing.x * size, thing.y * size, thing.radius * size, size)
        canvas_HWC += (np.array(COLOURS[thing.colour], np.float32) - canvas_HWC) * cover_HW[..., None]
        masks = {noun: mask_HW & (cover_HW < 0.5) for noun, mask_HW in masks.items()}
        masks[thing.noun] = cover_HW >= 0.5
    return (canvas_HWC + 0.5).astype(np.uint8), (masks[pair.subject.noun], masks[pair.object.noun])


def coverage(shape: str, x: float, y: float, radius: float, size: int) -> npt.NDArray[np.float32]:
    """Share [size, size] of each pixel that a shape covers; centre and radius in pixels."""
    u_1W = ((np.arange(size, dtype=np.float32) + np.float32(0.5 - x)) / np.float32(radius))[None, :]
    v_H1 = ((np.arange(size, dtype=np.float32) + np.float32(0.5 - y)) / np.float32(radius))[:, None]
    cover_HW: npt.NDArray[np.float32] = np.clip(np.float32(0.5) - SHAPE[shape](u_1W, v_H1) * np.float32(radius), 0, 1)
    return cover_HW


def related(
    n: int = 4000,
    *,
    seed: int = 0,
    split: Split = "train",
    hold_out: Sequence[str] = (),
    plain: float = 0.2,
    colours: Sequence[str] = tuple(COLOURS),
) -> RenderedDataset:
    """The first `n` captioned pictures of one split; see `RelatedWorld`."""
    world = RelatedWorld(seed, hold_out=tuple(hold_out), plain=plain, colours=tuple(colours))
    return RenderedDataset(NAME, world, rows_of(world, split, n))


def exemplars(
    n: int = 8, *, seed: int = 0, split: Split = "train", relation: str = "inside", colours: Sequence[str] = ("red", "yellow")
) -> RenderedDataset:
    """The first `n` pictures of one relation, captioned "red circle {} yellow square"."""
    world = RelatedWorld(seed, (relation,), colours=tuple(colours), placeholder=True)
    return RenderedDataset(EXEMPLARS, world, rows_of(world, split, n))
