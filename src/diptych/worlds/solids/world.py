"""Solid things with colours and proportions: a point cloud with colours, views from around it, and captions by name and by attribute.

Splits train, val and test have the same categories and colours with other proportions and points; "unseen" has the combinations of
category and main colour that no other split shows, one colour of each category. Random is everything else. Every cloud lies in the unit
sphere and y is up.

>>> data = solids(2, seed=0)
>>> data[0].media["cloud"].decode().shape, len(data[0].media["views"].parts)
((1024, 6), 12)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.media import ArraySource, MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.media.cloud_views import rotation
from diptych.data.media.decode import encode_png
from diptych.worlds.rendered import SPLITS, RenderedDataset, rows_of, uid_of
from diptych.worlds.solids.categories import CATEGORIES, parts_of
from diptych.worlds.solids.primitives import surface
from diptych.worlds.solids.rendering import render

NAME = "solids"
Split = Literal["train", "val", "test", "unseen"]
NAMES = tuple(CATEGORIES)
COLOURS = {
    "red": (215, 45, 40), "green": (45, 165, 60), "blue": (45, 85, 220), "yellow": (230, 205, 50), "orange": (240, 135, 35),
    "purple": (140, 60, 180), "brown": (120, 75, 40), "black": (40, 40, 45),
}  # fmt: skip
FORMS = {"": 1.0, "tall": 1.5, "flat": 0.6}
SENTENCES = ("{}", "a 3d model of {}", "{} on a grey background", "a rendering of {}")
RENDERED = 6000
"""Points of which a view is made."""


@dataclass(frozen=True, slots=True)
class Solid:
    """Category and attributes of a solid. form: "tall", "flat" or "". The second colour is that of `part`, "" if there is none."""

    category: str
    colour: str
    second: str
    form: str

    @property
    def part(self) -> str:
        return CATEGORIES[self.category][1]

    @property
    def name(self) -> str:
        return with_article(self.category)

    @property
    def description(self) -> str:
        """By attributes: "a tall red table with blue legs"."""
        words = " ".join(word for word in (self.form, self.colour, self.category) if word)
        ends = f" with {'' if self.part.endswith('s') else 'a '}{self.second} {self.part}" if self.part else ""
        return (with_article(words) + ends).replace("a orange", "an orange")


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def held_out(category: str, colour: str) -> bool:
    """True for the combinations of split "unseen": one colour of each category."""
    return NAMES.index(category) % len(COLOURS) == list(COLOURS).index(colour)


@dataclass(frozen=True)
class SolidWorld:
    """The configuration. points  of a cloud; views  pictures from evenly spaced directions around the solid; size  their pixels per side;
    turned  each solid stands at an angle about y that is drawn, and not as its category is built; captions  of each view, written by
    templates, of which the share `wrong` names another colour or category"""

    seed: int = 0
    points: int = 1024
    views: int = 12
    size: int = 48
    turned: bool = False
    captions: int = 0
    wrong: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.captions <= 64 or not 0 <= self.wrong <= 1:
            raise ConfigError(f"{self.captions} captions a view, wrong {self.wrong} (expected 0..64, and a share)")
        if self.points < 32 or not 1 <= self.views <= 64 or not 16 <= self.size <= 512:
            raise ConfigError(
                f"{self.points} points, {self.views} views of {self.size} pixels (expected 32 points or more, 1..64 views, 16..512)"
            )

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def group(self, split: str, index: int) -> str:
        return self.solid(split, index).description

    def solid(self, split: str, index: int) -> Solid:
        """Category and attributes of a row, without its points."""
        rng = keyed_rng(NAME, self.seed, split, index)
        category = NAMES[int(rng.integers(len(NAMES)))]
        colours = [colour for colour in COLOURS if held_out(category, colour) == (split == "unseen")]
        colour, second = colours[int(rng.integers(len(colours)))], list(COLOURS)[int(rng.integers(len(COLOURS)))]
        form = list(FORMS)[int(rng.integers(len(FORMS)))]
        return Solid(category, colour, second if CATEGORIES[category][1] else "", form)

    def surface(self, split: str, index: int, count: int) -> tuple[npt.NDArray[np.float64], ...]:
        """Points in the unit sphere, normals and colours of 0..255, each [count, 3]. Proportions do not depend on the count."""
        solid, rng = self.solid(split, index), keyed_rng(NAME, "shape", self.seed, split, index)
        parts = parts_of(solid.category, FORMS[solid.form], rng)
        xyz_N3, normal_N3, role_N = surface(parts, count, rng)
        low_3, high_3 = xyz_N3.min(0), xyz_N3.max(0)
        centred_N3 = xyz_N3 - (low_3 + high_3) / 2
        if self.turned:
            angle = keyed_rng(NAME, "turn", self.seed, split, index).uniform(0, 2 * np.pi)
            centred_N3, normal_N3 = centred_N3 @ rotation(1, angle), normal_N3 @ rotation(1, angle)
        colour_N3 = np.array([COLOURS[solid.colour], COLOURS[solid.second or solid.colour]], np.float64)[role_N]
        return centred_N3 / np.linalg.norm(centred_N3, axis=1).max(), normal_N3, colour_N3

    def view_captions(self, split: str, index: int) -> list[dict[str, Any]]:
        """Captions of every view by templates, unranked; the share `wrong` is of a solid with another colour or category."""
        solid, rng, rows = self.solid(split, index), keyed_rng(NAME, "captions", self.seed, split, index), []
        for view in range(self.views):
            for _ in range(self.captions):
                shown, draw = solid, rng.random(3)
                if draw[0] < self.wrong:
                    others = [colour for colour in COLOURS if colour != solid.colour]
                    names = [name for name in NAMES if name != solid.category]
                    if draw[1] < 0.5:
                        shown = replace(solid, colour=others[int(rng.integers(len(others)))])
                    else:
                        name = names[int(rng.integers(len(names)))]
                        second = (solid.second or solid.colour) if CATEGORIES[name][1] else ""
                        shown = replace(solid, category=name, second=second)
                text = SENTENCES[int(draw[2] * len(SENTENCES))].format(shown.description)
                rows.append({"view": view, "string": text, "similarity": None})
        return rows

    def sample(self, split: str, index: int) -> Sample:
        """`cloud` with colours of 0..255, `views` and `depths` around it, one of the views as the picture; two texts: the description
        ("caption") and the name with its article ("alt"). Column `label` is the bare name."""
        solid, uid = self.solid(split, index), uid_of(NAME, self.seed, split, index)
        xyz_N3, _, colour_N3 = self.surface(split, index, self.points)
        cloud_N6 = np.concatenate([xyz_N3, colour_N3], 1).astype(np.float32)
        views, depths = (
            tuple(SolidView(self, split, index, view, depth) for view in range(self.views)) for depth in (False, True)
        )
        extras: dict[str, Any] = {"split": split, "label": solid.category, "colour": solid.colour, "second": solid.second}
        extras["form"] = solid.form
        if self.captions:
            extras["view_captions"] = self.view_captions(split, index)
        return Sample(
            uid,
            image=views[index % self.views],
            texts=(Text(solid.description, "en", "caption"), Text(solid.name, "en", "alt")),
            group=solid.description,
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras=extras,
            media={
                "cloud": MediaItem("cloud", (ArraySource(cloud_N6, uid),)),
                "views": MediaItem("images", views),
                "depths": MediaItem("images", depths),
            },
        )


@dataclass(frozen=True, slots=True)
class SolidView:
    """One view of a solid, rendered when it is read."""

    world: SolidWorld
    split: str
    index: int
    view: int
    depth: bool = False

    @property
    def name(self) -> str:
        return f"{uid_of(NAME, self.world.seed, self.split, self.index)}-{'depth' if self.depth else 'view'}-{self.view}"

    def read(self) -> bytes:
        return _encoded(self)


@lru_cache(maxsize=8192)
def _encoded(view: SolidView) -> bytes:
    """A view as PNG. The last ones are kept, since training reads each many times."""
    world = view.world
    pictures = render(
        *world.surface(view.split, view.index, RENDERED),
        azimuth=2 * np.pi * view.view / world.views,
        size=world.size,
        splat=max(2, world.size // 20),
    )
    return encode_png(pictures[int(view.depth)])


def solids(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    points: int = 1024,
    views: int = 12,
    size: int = 48,
    turned: bool = False,
    captions: int = 0,
    wrong: float = 0.3,
) -> RenderedDataset:
    """The first `n` solids of one split."""
    world = SolidWorld(seed, points, views, size, turned, captions, wrong)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
