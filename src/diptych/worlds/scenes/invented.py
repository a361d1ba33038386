"""Shapes with made-up names that do not reveal their appearance, each defined by its description. `world:invented`.

A name stands for a colour, a texture and a shape ("a kind of thing, red, striped, star"); `similar objects` differ from it in one of the
three. With `hold_out`, colours of shapes that occur in the split "unseen" only, and their names with them.

>>> sample = invented(4, seed=0)[0]
>>> sorted(sample.extras["nouns"]) == sorted({region.label for region in sample.regions})
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.text.descriptions.knowledge import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.layout import COLOURS, SHAPES, TEXTURES
from diptych.worlds.scenes.world import SceneWorld, Split

NAME = "invented"
Look = tuple[str, str, str]
"""Colour, texture, shape."""
HELD_OUT = tuple(
    f"{colour} {SHAPES[(position + step) % len(SHAPES)]}" for step in (0, 3) for position, colour in enumerate(COLOURS)
)
"""Every colour and every shape is held out twice, and both are seen otherwise."""


@lru_cache(maxsize=1)
def names() -> dict[Look, str]:
    """Name of each look, the same in every world: two random syllables."""
    looks = [(colour, texture, shape) for colour in COLOURS for texture in TEXTURES for shape in SHAPES]
    syllables = [f"{one}{two}" for one in "bdfgklmnprstvz" for two in "aeiou"]
    order = keyed_rng(NAME, "names").permutation(len(syllables) ** 2)[: len(looks)]
    return {look: syllables[int(n) // 70] + syllables[int(n) % 70] for look, n in zip(looks, order, strict=True)}


def described(look: Look) -> dict[str, Any]:
    """Entry of a knowledge file for a thing: type, description and names of similar things."""
    ways = (COLOURS, TEXTURES, SHAPES)
    others = [
        (*look[:axis], value, *look[axis + 1 :]) for axis, values in enumerate(ways) for value in values if value != look[axis]
    ]
    similar = [names()[other] for other in others]  # type: ignore[index]
    return {"type": "thing", "description": "; ".join(look), "similar objects": similar}


def look_of(name: str) -> Look:
    """Look of a name."""
    return _looks()[name]


@lru_cache(maxsize=1)
def _looks() -> dict[str, Look]:
    return {name: look for look, name in names().items()}


@dataclass(frozen=True)
class InventedWorld(SceneWorld):
    """A scenes world with flat looks whose regions have made-up names. `extras["nouns"]` says what is known about them."""

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        looks: list[Look] = [(thing["colour"], thing["texture"], thing["label"]) for thing in made.extras["things"]]
        regions = tuple(replace(region, label=names()[look]) for region, look in zip(made.regions, looks, strict=True))
        knowledge = {names()[look]: described(look) for look in looks}
        uid = uid_of(NAME, self.seed, split, index)
        text = Text(", ".join(region.label for region in regions), "", "tags")
        extras = {"split": split, FIELD: knowledge}
        return replace(made, uid=uid, texts=(text,), regions=regions, extras=extras, source=f"world:{NAME}")


def invented(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    max_objects: int = 2,
    hold_out: tuple[str, ...] = HELD_OUT,
) -> RenderedDataset:
    """The first `n` scenes of one split, of two things (up to `max_objects`)."""
    world = InventedWorld(
        seed=seed, size=size, max_objects=max_objects, hold_out=hold_out, lengths=("short",), paraphrases=0, negatives=False
    )
    return RenderedDataset(NAME, world, rows_of(world, split, n))
