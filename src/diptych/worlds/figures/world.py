"""Two stick figures in a relation that their limbs encode, with reference pictures of each alone. `world:figures`.

A sample's picture shows two figures of two colours on grey; its text is "red figure shaking hands with blue figure".
`extras["figures"]` has for each of them its phrase, box and 17 key points in the picture (shares of its sides), and the 17 key
points in its reference picture, which is `media["references"]` in the same order: the same figure alone in another pose. Regions
hold the masks.

>>> figures(2, seed=0)[0].image.pixels_HWC.shape
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
from diptych.core.media import MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.masks import box_of, encode
from diptych.worlds.figures.poses import BONES, NEUTRAL, RELATIONS, Pose, key_points
from diptych.worlds.related.world import BACKGROUND, COLOURS
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of

NAME = "figures"
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SIDE = 32
HEIGHT = (0.66, 0.78)
"""Of a figure, as shares of the picture's side."""
HEAD_RADIUS, LIMB = 0.1, 0.035
"""Of the head and half the width of limbs, as shares of the figure's height."""


@dataclass(frozen=True, slots=True, eq=False)
class StickFigure:
    """A stick figure: colour, key points [17, 2] as shares of the picture's sides, and height as a share of its side."""

    colour: str
    point_KP: npt.NDArray[np.float64]
    height: float

    @property
    def phrase(self) -> str:
        return f"{self.colour} figure"


@dataclass(frozen=True, slots=True, eq=False)
class FigurePair:
    """Two figures from left to right, their relation, and each of them alone."""

    figures: tuple[StickFigure, StickFigure]
    relation: str
    alone: tuple[StickFigure, StickFigure]

    def caption(self, words: str) -> str:
        """Caption with `words` for the relation."""
        return f"{self.figures[0].phrase} {words} {self.figures[1].phrase}"


@dataclass(frozen=True)
class FiguresWorld:
    """The configuration.

    relations  that are drawn, equally likely
    apart      share of the pictures whose figures stand side by side in random poses; their captions say "and"
    colours    of the figures
    """

    seed: int = 0
    relations: tuple[str, ...] = tuple(RELATIONS)
    apart: float = 0.0
    colours: tuple[str, ...] = tuple(COLOURS)

    def __post_init__(self) -> None:
        for relation in self.relations:
            if relation not in RELATIONS:
                raise UnknownName("relation", relation, RELATIONS)
        for colour in self.colours:
            if colour not in COLOURS:
                raise UnknownName("colour", colour, COLOURS)
        if len(set(self.colours)) < 2 or not 0 <= self.apart <= 1 or not (self.relations or self.apart == 1):
            raise ConfigError(f"{len(set(self.colours))} colours, apart {self.apart} (expected two or more, and a share)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def drawn(self, split: str, index: int) -> FigurePair:
        """The pair of a row."""
        rng = keyed_rng(NAME, self.seed, split, index)
        colours = [self.colours[int(at)] for at in rng.choice(len(self.colours), 2, replace=False)]
        if rng.random() < self.apart:
            poses, distance, relation = [_neutral(rng) for _ in range(2)], rng.uniform(0.55, 0.7), "and"
        else:
            relation = self.relations[int(rng.integers(len(self.relations)))]
            left, right, distance = RELATIONS[relation]
            poses = [left, right]
        height = rng.uniform(*HEIGHT)
        top = rng.uniform(0.04, 0.96 - height)
        middle = 0.5 + rng.uniform(-0.04, 0.04)
        offsets = (-distance * height / 2, distance * height / 2)
        pair = [
            StickFigure(colour, key_points(pose, middle + offset, top, height), height)
            for colour, pose, offset in zip(colours, poses, offsets, strict=True)
        ]
        alone = [
            StickFigure(colour, key_points(_neutral(rng), 0.5, 0.5 - own / 2, own), own)
            for colour in colours
            for own in (rng.uniform(*HEIGHT),)
        ]
        return FigurePair((pair[0], pair[1]), relation, (alone[0], alone[1]))

    def group(self, split: str, index: int) -> str:
        pair = self.drawn(split, index)
        return pair.caption(pair.relation)

    def sample(self, split: str, index: int) -> Sample:
        pair, uid = self.drawn(split, index), uid_of(NAME, self.seed, split, index)
        pixels_HWC, masks = render_figures(pair.figures)
        regions = [
            Region(box, "figure", (figure.colour,), mask=encode(mask_HW))
            for figure, mask_HW in zip(pair.figures, masks, strict=True)
            if (box := box_of(mask_HW)) is not None
        ]
        references = tuple(
            ArrayImage(render_figures((figure,))[0], f"{uid}-reference{at}") for at, figure in enumerate(pair.alone)
        )
        facts = [
            {
                "phrase": figure.phrase,
                "box": share_box(mask_HW),
                "key_points": figure.point_KP.tolist(),
                "reference_key_points": alone.point_KP.tolist(),
            }
            for figure, alone, mask_HW in zip(pair.figures, pair.alone, masks, strict=True)
        ]
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            (Text(pair.caption(pair.relation), "en"),),
            regions=tuple(regions),
            relations=(Relation(0, pair.relation, 1),),
            group=pair.caption(pair.relation),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={"split": split, "label": pair.relation, "predicate": pair.relation, "figures": facts},
            media={"references": MediaItem("images", references)},
        )


def render_figures(pair: Sequence[StickFigure], size: int = SIDE) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.bool_]]]:
    """uint8 [size, size, 3] and the visible mask [size, size] of each figure; later ones are in front."""
    canvas_HWC = np.full((size, size, 3), BACKGROUND, np.float32)
    masks: list[npt.NDArray[np.bool_]] = []
    for figure in pair:
        cover_HW = figure_coverage(figure, size)
        canvas_HWC += (np.array(COLOURS[figure.colour], np.float32) - canvas_HWC) * cover_HW[..., None]
        masks = [mask_HW & (cover_HW < 0.5) for mask_HW in masks]
        masks.append(cover_HW >= 0.5)
    return (canvas_HWC + 0.5).astype(np.uint8), masks


def figure_coverage(figure: StickFigure, size: int) -> npt.NDArray[np.float32]:
    """Share [size, size] of each pixel that a figure covers: a head, a body, arms and legs."""
    at_H, at_W = np.arange(size) + 0.5, np.arange(size) + 0.5
    point_KP, height = figure.point_KP * size, figure.height * size
    x_HW, y_HW = np.broadcast_arrays(at_W[None, :], at_H[:, None])
    head_HW = np.hypot(x_HW - point_KP[0, 0], y_HW - point_KP[0, 1]) - HEAD_RADIUS * height
    shoulders, hips = (point_KP[[left, left + 1]].mean(0) for left in (5, 11))
    distance_HW = np.minimum(head_HW, _segment(x_HW, y_HW, shoulders, hips) - 1.8 * LIMB * height)
    bones = [*BONES, (5, 6), (11, 12)]
    for start, stop in bones:
        distance_HW = np.minimum(distance_HW, _segment(x_HW, y_HW, point_KP[start], point_KP[stop]) - LIMB * height)
    cover_HW: npt.NDArray[np.float32] = np.clip(0.5 - distance_HW, 0, 1).astype(np.float32)
    return cover_HW


def _segment(x_HW: Any, y_HW: Any, start: Any, stop: Any) -> npt.NDArray[np.float64]:
    """Distance of each pixel from a line between two points."""
    (x0, y0), (dx, dy) = start, stop - start
    along_HW = np.clip(((x_HW - x0) * dx + (y_HW - y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    distance_HW: npt.NDArray[np.float64] = np.hypot(x_HW - x0 - along_HW * dx, y_HW - y0 - along_HW * dy)
    return distance_HW


def _neutral(rng: np.random.Generator) -> Pose:
    return NEUTRAL[int(rng.integers(len(NEUTRAL)))]


def share_box(mask_HW: npt.NDArray[np.bool_]) -> list[float]:
    """x0, y0, x1, y1 of a mask as shares of the picture's sides; an empty mask has the whole picture."""
    if not mask_HW.any():
        return [0.0, 0.0, 1.0, 1.0]
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    height, width = mask_HW.shape
    return [float(v) for v in (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)]


def figures(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    relations: Sequence[str] = tuple(RELATIONS),
    apart: float = 0.0,
    colours: Sequence[str] = tuple(COLOURS),
) -> RenderedDataset:
    """The first `n` pictures of one split; see `FiguresWorld`."""
    world = FiguresWorld(seed, tuple(relations), apart, tuple(colours))
    return RenderedDataset(NAME, world, rows_of(world, split, n))
