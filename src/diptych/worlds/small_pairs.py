"""Small rendered pairs of which some have the text of another image, as on the web; which ones is known.

An image of 48 pixels holds two coloured shapes in two of nine cells, on noise. Its raw text names both with their places ("a red
circle top left and a blue cross centre"); its synthetic caption names both without, as a captioner that sees things but not where they
are. The scenes of `world:scenes` have four times as many nouns and no grid: too much to learn in a minute of two cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.masks import box_of, encode
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.shapes import mask_of

NAME = "small_pairs"
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (160, 50, 190),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
NOUNS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
PLACES = (
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"
)  # fmt: skip
SIDE, CELL, JITTER = 48, 16, 2
"""Pixels of an image and of a cell, and by how many a shape is off its cell's middle at most."""


@dataclass(frozen=True)
class RenderedPair:
    """Pixels, and the mask and (noun, cell) of each thing in reading order."""

    pixels_HWC: npt.NDArray[np.uint8]
    masks: tuple[npt.NDArray[np.bool_], ...]
    things: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        return " and ".join(f"a {noun} {PLACES[cell]}" for noun, cell in self.things)

    @property
    def caption(self) -> str:
        return " and ".join(f"a {noun}" for noun, _ in self.things)


@dataclass(frozen=True)
class SmallPairsWorld:
    """The configuration.

    count       rows of the training split, among which texts are exchanged
    mismatched  share of raw training texts that are another image's; the extra "mismatched" says which
    wrong       share of synthetic training captions that are another image's
    captioned   whether samples carry the caption at all
    regions     whether samples carry a region for each thing: its box, its mask, its shape as the label and its colour as attribute
    avoid       nouns ("red circle") that no image shows
    """

    seed: int = 0
    count: int = 1
    mismatched: float = 0.0
    wrong: float = 0.05
    captioned: bool = False
    regions: bool = False
    avoid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mismatched", "wrong"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected a share between 0 and 1)")
        for noun in self.avoid:
            if noun not in NOUNS:
                raise UnknownName("noun", noun, NOUNS)

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def group(self, split: str, index: int) -> str:
        """The text in the test rows; nobody knows a wrong text for a duplicate while training."""
        return self._drawn(split, index).text if split == "test" else ""

    def sample(self, split: str, index: int) -> Sample:
        shown, uid = self._drawn(split, index), uid_of(NAME, self.seed, split, index)
        other = self._source(split, index, self.mismatched, "raw")
        texts = [Text((shown if other == index else self._drawn(split, other)).text, "en", "alt")]
        if self.captioned:
            source = self._source(split, index, self.wrong, "caption")
            caption = (shown if source == index else self._drawn(split, source)).caption
            texts.append(Text(caption, "en", "synthetic"))
        regions = [
            Region(box, noun.split()[1], (noun.split()[0],), mask=encode(mask))
            for (noun, _), mask in zip(shown.things, shown.masks, strict=True)
            if self.regions and (box := box_of(mask)) is not None
        ]
        return Sample(
            uid,
            ArrayImage(shown.pixels_HWC, uid),
            tuple(texts),
            regions=tuple(regions),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={"split": split, "mismatched": other != index, "label": shown.things[0][0]},
        )

    def _source(self, split: str, index: int, share: float, what: str) -> int:
        """The row whose text this row gets. Test rows keep their own."""
        return exchanged(self.count, share, split, self.seed, what)[index] if split == "train" and index < self.count else index

    def _drawn(self, split: str, index: int) -> RenderedPair:
        return draw(keyed_rng("noisy", self.seed, split, index), [noun for noun in NOUNS if noun not in self.avoid])


@dataclass(frozen=True)
class SmallPairs:
    """The first `count` images of a split, as a claim declares them; see `SmallPairsWorld`."""

    count: int
    mismatched: float = 0.0
    wrong: float = 0.05
    captioned: bool = False
    regions: bool = False
    avoid: tuple[str, ...] = field(default=())

    def pool(self, split: Split, seed: int) -> Pool:
        """Deterministic in (split, seed): equal images and equal mistakes for every arm that avoids the same."""
        options = {name: getattr(self, name) for name in ("mismatched", "wrong", "captioned", "regions", "avoid")}
        return small_pairs(self.count, seed=seed, split=split, **options).to_pool().named(f"{NAME}/{split}")


def small_pairs(
    n: int = 6000,
    *,
    seed: int = 0,
    split: Split = "train",
    mismatched: float = 0.0,
    wrong: float = 0.05,
    captioned: bool = False,
    regions: bool = False,
    avoid: tuple[str, ...] = (),
) -> RenderedDataset:
    """The first `n` images of one split. Shares are of the `n` training rows; test rows are clean."""
    world = SmallPairsWorld(seed, n, mismatched, wrong, captioned, regions, tuple(avoid))
    return RenderedDataset(NAME, world, rows_of(world, split, n))


def draw(rng: np.random.Generator, nouns: Sequence[str]) -> RenderedPair:
    """An image of two things, the cells in reading order."""
    pixels_HWC = np.clip(rng.normal(64, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    cells = sorted(int(cell) for cell in rng.choice(len(PLACES), 2, replace=False))
    things = [(nouns[int(rng.integers(len(nouns)))], cell) for cell in cells]
    masks = []
    for noun, cell in things:
        colour, shape = noun.split()
        down, right = (int(shift) for shift in rng.integers(-JITTER, JITTER + 1, 2))
        y, x = np.ogrid[:SIDE, :SIDE]
        y, x = y - (cell // 3 * CELL + CELL / 2 + down), x - (cell % 3 * CELL + CELL / 2 + right)
        masks.append(mask_of(shape, y, x, radius=6, side=5, arm=2))
        pixels_HWC[masks[-1]] = COLOURS[colour]
    return RenderedPair(pixels_HWC, tuple(masks), tuple(things))


@lru_cache(maxsize=8)
def exchanged(count: int, share: float, *key: int | str) -> list[int]:
    """Row -> the row whose text it gets: itself, but for a share of the rows, none of which keeps its own."""
    order = keyed_rng("exchanged", *key).permutation(count)[: round(count * share)].tolist()
    source = list(range(count))
    if len(order) > 1:
        for row, other in zip(order, [*order[1:], order[0]], strict=True):
            source[row] = other
    return source
