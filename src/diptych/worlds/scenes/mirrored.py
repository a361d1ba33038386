"""Scenes of two things side by side, each with its mirror image: two pictures and two captions of the same words. `world:mirrored`.

"A red circle left of a blue square" is true of the one, "a blue square left of a red circle" of the other, and nothing else differs.

>>> mirrored(2)[1].texts[0].string
'a yellow cross left of a cyan moon'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.probes.case import FIELD, stored
from diptych.data.probes.winoground import ROLES
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.captions import SURFACES, with_article
from diptych.worlds.scenes.world import SceneWorld, Split

NAME = "mirrored"
TRIES = 64  # scenes that are drawn until one has two things side by side


@dataclass(frozen=True)
class MirroredWorld(SceneWorld):
    """A scenes world of two different things. Row 2 k is a scene, row 2 k + 1 the same one mirrored; both are one group."""

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def group(self, split: str, index: int) -> str:
        return f"{NAME}-{self.seed}-{split}-{index // 2}"

    def sample(self, split: str, index: int) -> Sample:
        made, left, right = self._side_by_side(split, index // 2)
        captions = [_caption(left, right), _caption(right, left)]
        side, uid = index % 2, uid_of(NAME, self.seed, split, index)
        assert isinstance(made.image, ArrayImage)
        pixels_HWC = made.image.pixels_HWC
        image = ArrayImage(np.ascontiguousarray(pixels_HWC[:, ::-1]) if side else pixels_HWC, uid)
        return Sample(
            uid,
            image,
            (Text(captions[side], "en"),),
            group=self.group(split, index),
            licence=made.licence,
            source=f"world:{NAME}",
            extras={"split": split, FIELD: [stored("mirrored", captions, ROLES[side])]},
        )

    def _side_by_side(self, split: str, number: int) -> tuple[Sample, str, str]:
        """A scene, and the nouns of its left and of its right thing. The first of a fixed row of scenes that has such."""
        for attempt in range(TRIES):
            made = super().sample(split, TRIES * number + attempt)
            nouns = [f"{thing['colour']} {thing['label']}" for thing in made.extras["things"]]
            held = next((r for r in made.relations if r.predicate == "left of"), None)
            if held is not None and nouns[0] != nouns[1]:
                return made, nouns[held.subject], nouns[held.object]
        raise AssertionError(f"none of {TRIES} scenes has two different things side by side")


def _caption(left: str, right: str) -> str:
    return f"{with_article(left)} {SURFACES['left of'][0]} {with_article(right)}"


def mirrored(n: int = 1000, *, seed: int = 0, split: Split = "train", size: int = 64) -> RenderedDataset:
    """The first `n` pictures of one split, an even number: each scene and its mirror image."""
    world = MirroredWorld(seed=seed, size=size, min_objects=2, max_objects=2, lengths=("short",), paraphrases=0, negatives=False)
    return RenderedDataset(NAME, world, rows_of(world, split, n + n % 2))
