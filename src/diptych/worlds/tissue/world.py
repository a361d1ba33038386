"""Tiles with captions as the web has them: several images per case, captions at several levels of the tree, some kinds rare.

A case is a group of images with the same captions, as clusters of near duplicates are. Some cases are named by their kind, some only by
the family, some not at all: which concept the captions name is the extra "concept", which kind it is the extra "label". In the test rows
every kind, and normal tissue, stands equally often, and the caption names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.tissue.tiles import tile
from diptych.worlds.tissue.tree import LEAVES, NORMAL, UNKNOWN, family_id, leaf_id, tissue_ontology

NAME = "tissue"
NORMAL_NAMES = ("normal tissue", "healthy tissue")
OPENINGS = ("section with", "seen here:", "biopsy shows", "case of", "typical", "note the")
ENDINGS = (
    "",
    "at high power",
    "from a middle aged patient",
    "courtesy of a colleague",
    "what do you think",
    "same case as before",
)
NOTHING = ("nice colours today", "what is your diagnosis", "another slide from the clinic", "see the thread below")
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class TissueWorld:
    """The configuration.

    members   images of a case
    family    share of cases whose captions name the family only
    unnamed   share of cases whose captions name nothing
    normal    share of cases of normal tissue
    exponent  of Zipf's law over the kinds; which ones are frequent depends on the seed. 0 makes them equal
    """

    seed: int = 0
    members: int = 4
    family: float = 0.3
    unnamed: float = 0.1
    normal: float = 0.1
    exponent: float = 0.8

    def __post_init__(self) -> None:
        for name in ("family", "unnamed", "normal"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected a share between 0 and 1)")
        if self.family + self.unnamed > 1 or self.members < 1 or self.exponent < 0:
            raise ConfigError(
                f"family {self.family:g} and unnamed {self.unnamed:g}, {self.members} members, exponent {self.exponent:g} "
                "(expected shares that sum to 1 at most, one member or more, 0 or more)"
            )

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def group(self, split: str, index: int) -> str:
        """The case: images of one case are never on both sides of a split."""
        return f"{split}-case-{self.case(split, index)}"

    def case(self, split: str, index: int) -> int:
        return index // self.members if split == "train" else index

    def leaf(self, split: str, index: int) -> str:
        """The kind of a row, "" for normal tissue."""
        if split != "train":
            return ("", *LEAVES)[index % (len(LEAVES) + 1)]
        rng = keyed_rng(NAME, self.seed, "kind", self.case(split, index))
        if rng.random() < self.normal:
            return ""
        kinds, up_to = _law(self.seed, self.exponent)
        return kinds[min(int(np.searchsorted(up_to, rng.random(), side="right")), len(kinds) - 1)]

    def concept(self, split: str, index: int) -> str:
        """Concept that the captions of a row name: one of `tissue_ontology`, "normal" or "unknown"."""
        leaf = self.leaf(split, index)
        level = keyed_rng(NAME, self.seed, "level", split, self.case(split, index)).random()
        if split == "train" and level < self.unnamed:
            return UNKNOWN
        if not leaf:
            return NORMAL
        return family_id(leaf) if split == "train" and level < self.unnamed + self.family else leaf_id(leaf)

    def captions(self, split: str, index: int) -> tuple[str, ...]:
        """The captions of its case: three in training, with names drawn among synonyms, and one in the other splits."""
        concept = self.concept(split, index)
        if split != "train":
            return (f"tissue of {NORMAL_NAMES[0] if concept == NORMAL else tissue_ontology()[concept].name}",)
        rng = keyed_rng(NAME, self.seed, "captions", split, self.case(split, index))
        if concept == UNKNOWN:
            return tuple(str(text) for text in rng.choice(NOTHING, 3))
        names = NORMAL_NAMES if concept == NORMAL else tissue_ontology()[concept].names
        picked = ((rng.choice(OPENINGS), rng.choice(names), rng.choice(ENDINGS)) for _ in range(3))
        return tuple(" ".join(str(part) for part in parts if part) for parts in picked)

    def sample(self, split: str, index: int) -> Sample:
        uid, leaf = uid_of(NAME, self.seed, split, index), self.leaf(split, index)
        pixels_HWC = tile(keyed_rng(NAME, self.seed, split, index), leaf)
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            tuple(Text(caption, "en", "alt") for caption in self.captions(split, index)),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={"split": split, "label": leaf or NORMAL_NAMES[0], "concept": self.concept(split, index)},
        )


@lru_cache(maxsize=16)
def _law(seed: int, exponent: float) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Kinds from the most frequent on, and the share of cases of the first k."""
    order = keyed_rng(NAME, seed, "law").permutation(len(LEAVES))
    weights = (1.0 + np.arange(len(LEAVES))) ** -exponent
    return [LEAVES[kind] for kind in order], np.cumsum(weights / weights.sum())


def tissue(
    n: int = 4000,
    *,
    seed: int = 0,
    split: Split = "train",
    members: int = 4,
    family: float = 0.3,
    unnamed: float = 0.1,
    normal: float = 0.1,
    exponent: float = 0.8,
) -> RenderedDataset:
    """The first `n` tiles of one split; see `TissueWorld`."""
    world = TissueWorld(seed, members, family, unnamed, normal, exponent)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
