"""Rendered persons for re-identification: an identity is a tuple of attributes, and its pictures differ in everything else.

Pose, light, camera and occlusion change from picture to picture; three captions of different style say what of the person is to be
seen. No two identities have the same attributes, in one split or in two, so that a caption of all of them names one person. `group` is the
identity. They are drawings: no person is shown, and the extra "consent" says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.masks import box_of, encode
from diptych.worlds.people.captions import STYLES, UNKNOWN, VisibleAttributes
from diptych.worlds.people.looks import COLOURS, Person, appearance, choices, person
from diptych.worlds.people.rendering import PARTS, rendered
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of

NAME = "pedestrians"
SPLITS = ("train", "val", "test")
FEWEST_PIXELS = 10
"""A part of which fewer are seen is called unknown."""


@dataclass(frozen=True)
class PedestrianWorld:
    """The configuration.

    images    of an identity, one after the other
    styles    of captions: "plain", "witness", "tags"; a picture has one of each
    captioned whether pictures have captions at all
    wardrobe  "all", or of which season people wear clothes: the upper clothes of "summer" and "winter" have no kind in common
    occluded  share of the pictures where something hides the feet or a side
    noisy     share of the training pictures that are filed under the identity before or after their own; `true_identity` says whose
              they are
    regions   whether clothes, head, shoes and bag come with box, mask and colour
    """

    seed: int = 0
    images: int = 8
    styles: tuple[str, ...] = tuple(STYLES)
    captioned: bool = True
    wardrobe: str = "all"
    occluded: float = 0.2
    noisy: float = 0.0
    regions: bool = False

    def __post_init__(self) -> None:
        choices(self.wardrobe)
        for style in self.styles:
            if style not in STYLES:
                raise UnknownName("style", style, STYLES)
        if self.images < 1 or not self.styles:
            raise ConfigError(f"images is {self.images} and styles {self.styles} (expected one or more of each)")
        for name in ("occluded", "noisy"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected a share between 0 and 1)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def group(self, split: str, index: int) -> str:
        return f"{NAME}-{self.seed}-{split}-{self.filed_under(split, index):06d}"

    def filed_under(self, split: str, index: int) -> int:
        """Identity number that a picture is labelled with."""
        own = index // self.images
        if split != "train" or not self.noisy:
            return own
        dice = SceneRandom.of_scene(f"{NAME} filing", self.seed, split, index)
        return max(0, own + dice.pick((-1, 1))) if dice.uniform() < self.noisy else own

    def person(self, split: str, number: int) -> Person:
        """Person of a row. No identity of one split is one of another."""
        return person(self.seed, self.wardrobe, len(SPLITS) * number + SPLITS.index(split))

    def sample(self, split: str, index: int) -> Sample:
        who = self.person(split, index // self.images)
        dice = SceneRandom.of_scene(NAME, self.seed, split, index)
        seen = appearance(dice, self.seed, self.occluded)
        pixels_HWC, part_HW = rendered(who, seen, dice.seed())
        counts = np.bincount(part_HW.ravel(), minlength=len(PARTS))
        there = {name: bool(counts[PARTS.index(name)] >= FEWEST_PIXELS) for name in ("head", "upper", "lower", "shoes", "bag")}
        shown = VisibleAttributes(who, seen.action, **there)
        uid = uid_of(NAME, self.seed, split, index)
        texts = tuple(Text(STYLES[style](shown, dice), "en") for style in self.styles) if self.captioned else ()
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            texts,
            regions=self._regions(shown, part_HW) if self.regions else (),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={
                "split": split,
                "identity": self.filed_under(split, index),
                "true_identity": index // self.images,
                "camera": seen.camera,
                "action": seen.action,
                "attributes": list(shown.attributes),
                "consent": "rendered",
            },
        )

    def _regions(self, shown: VisibleAttributes, part_HW: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[Region, ...]:
        who = shown.person
        colours = {
            "head": who.hair_colour,
            "upper": who.upper_colour,
            "lower": who.lower_colour,
            "shoes": who.shoe_colour,
            "bag": "",
        }
        regions = []
        for name, colour in colours.items():
            mask_HW = part_HW == PARTS.index(name)
            if getattr(shown, name) and (box := box_of(mask_HW)) is not None:
                regions.append(Region(box, name, (colour,) if colour else (), mask=encode(mask_HW)))
        return tuple(regions)


def pedestrians(
    n: int = 3200,
    *,
    seed: int = 0,
    split: str = "train",
    images: int = 8,
    styles: tuple[str, ...] = tuple(STYLES),
    captioned: bool = True,
    wardrobe: str = "all",
    occluded: float = 0.2,
    noisy: float = 0.0,
    regions: bool = False,
) -> RenderedDataset:
    """The first `n` pictures of one split, `images` of a person after the other."""
    world = PedestrianWorld(seed, images, tuple(styles), captioned, wardrobe, occluded, noisy, regions)
    return RenderedDataset(NAME, world, rows_of(world, split, n))


__all__ = ["COLOURS", "NAME", "UNKNOWN", "PedestrianWorld", "pedestrians"]
