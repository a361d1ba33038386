"""Rendered pairs whose objects follow Zipf's law, as on the web: one coloured shape per image, a few of them in most images.

An image of 48 pixels holds one shape on noise, anywhere. Its text names it with its place and a few words that say nothing ("a picture
of a red circle at the left"). Every kind stands equally often in the test images, so that the mean over images is the mean over kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.config import to_plain
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.shapes import mask_of

NAME = "long_tail"
COLOURS = {
    "red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230), "yellow": (235, 220, 50), "purple": (160, 50, 190),
    "white": (245, 245, 245), "orange": (240, 140, 30), "cyan": (60, 210, 220), "pink": (245, 150, 190), "brown": (130, 80, 40),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
KINDS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
OPENINGS = ("a picture of a", "one", "here is a", "photo of a", "nice", "my")
SIDE = 48


@dataclass(frozen=True)
class LongTailWorld:
    """The configuration. `exponent` of Zipf's law; which kind is frequent depends on the seed. The extra "kind" says what is shown."""

    seed: int = 0
    exponent: float = 1.2

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def group(self, split: str, index: int) -> str:
        return ""

    def kind(self, split: str, index: int) -> str:
        """Kind of a row: by Zipf's law in split "train"; in "test" every kind in turn."""
        if split == "test":
            return KINDS[index % len(KINDS)]
        reached = keyed_rng("long tail", self.seed, "kinds", index).random()
        kinds, up_to = _law(self.seed, self.exponent)
        return kinds[min(int(np.searchsorted(up_to, reached, side="right")), len(kinds) - 1)]

    def sample(self, split: str, index: int) -> Sample:
        rng = keyed_rng("long tail", self.seed, split, index)
        kind, uid = self.kind(split, index), uid_of(NAME, self.seed, split, index)
        pixels_HWC = np.clip(rng.normal(64, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        colour, shape = kind.split()
        y0, x0 = rng.uniform(10, SIDE - 10, 2)
        y, x = np.ogrid[:SIDE, :SIDE]
        pixels_HWC[_inside(shape, y - y0, x - x0)] = COLOURS[colour]
        side = ("at the left", "in the middle", "at the right")[int(x0 * 3 / SIDE)]
        text = f"{OPENINGS[int(rng.integers(len(OPENINGS)))]} {kind} {side}"
        extras = {"split": split, "kind": kind}
        return Sample(uid, ArrayImage(pixels_HWC, uid), (Text(text, "en", "alt"),), licence="CC0-1.0", extras=extras)


@lru_cache(maxsize=16)
def _law(seed: int, exponent: float) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Kinds by descending frequency, and the cumulative share of images."""
    order = keyed_rng("long tail", seed).permutation(len(KINDS))
    weights = (1.0 + np.arange(len(KINDS))) ** -exponent
    return [KINDS[kind] for kind in order], np.cumsum(weights / weights.sum())


def long_tail(
    n: int = 30_000, *, seed: int = 0, split: Literal["train", "test"] = "train", exponent: float = 1.2
) -> RenderedDataset:
    """The first `n` images of one split."""
    world = LongTailWorld(seed, exponent)
    return RenderedDataset(NAME, world, rows_of(world, split, n))


def rarest(pool: Pool) -> list[str]:
    """The rarest third of all kinds in these rows."""
    counts = dict.fromkeys(KINDS, 0)
    for kind in pool.column("kind"):
        counts[kind] += 1
    return sorted(counts, key=lambda kind: (counts[kind], kind))[: len(KINDS) // 3]


def _inside(shape: str, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """bool [H, W] from distances to the middle, in pixels."""
    mask: npt.NDArray[np.bool_]
    if shape == "ring":
        mask = (y**2 + x**2 <= 64) & (y**2 + x**2 >= 20)
    elif shape == "bar":
        mask = (abs(y) <= 3) & (abs(x) <= 9)
    else:
        mask = mask_of(shape, y, x, radius=7, side=6, arm=2)
    return mask
