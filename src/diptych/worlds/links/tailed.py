"""Scenes of `world:links` whose predicates come up by Zipf's law, as in Visual Genome: a few are most of the links, others are rare.

Which predicate is frequent depends on the seed. In split "test" all are as frequent as in `world:links`, so that the rare ones are
measured by as many links as the others. No predicate is held out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.worlds.links.world import PREDICATES, LinkWorld, Split, predicate
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of

NAME = "tailed_links"
TRIES = 1000
"""Scenes of `world:links` that follow one of these; the first that the law lets through is it."""


@dataclass(frozen=True)
class TailedLinkWorld:
    """The configuration. The predicate of rank k is k ** exponent times as rare as the first."""

    seed: int = 0
    size: int = 64
    exponent: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 3:
            raise ConfigError(f"exponent is {self.exponent} (expected 0..3)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    @property
    def plain(self) -> LinkWorld:
        return LinkWorld(self.seed, self.size, ())

    def ranked(self) -> tuple[str, ...]:
        """Predicates, the most frequent first."""
        order = keyed_rng("tailed links", self.seed, "ranks").permutation(len(PREDICATES))
        return tuple(PREDICATES[n] for n in order)

    def place(self, split: str, index: int) -> int:
        """Which scene of `world:links` it is: each of its links is let through by the share of its predicate."""
        first = index * TRIES
        if split == "test" or not self.exponent:
            return first
        share = {name: (rank + 1) ** -self.exponent for rank, name in enumerate(self.ranked())}
        draw_T = keyed_rng("tailed links", self.seed, split, index).random(TRIES)
        for attempt in range(TRIES):
            scene, pairs = self.plain.scene(split, first + attempt)
            if draw_T[attempt] < np.prod([share[predicate(scene.things[i], scene.things[j])] for i, j in pairs]):
                return first + attempt
        return first

    def group(self, split: str, index: int) -> str:
        return self.plain.group(split, self.place(split, index))

    def sample(self, split: str, index: int) -> Sample:
        sample = self.plain.sample(split, self.place(split, index))
        return replace(sample, uid=uid_of(NAME, self.seed, split, index), source=f"world:{NAME}")


def tailed_links(
    n: int = 4000, *, seed: int = 0, split: Split = "train", size: int = 64, exponent: float = 1.5
) -> RenderedDataset:
    """The first `n` scenes of one split."""
    world = TailedLinkWorld(seed, size, exponent)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
