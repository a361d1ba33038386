"""Attributes of a rendered person: an identity as a tuple, and its appearance in one picture (pose, light, camera, occlusion)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.worlds.rendered import SceneRandom

Wardrobe = Literal["all", "summer", "winter"]
WARDROBES: tuple[str, ...] = get_args(Wardrobe)
Shade = tuple[int, int, int]

COLOURS: dict[str, Shade] = {
    "red": (200, 40, 45),
    "green": (50, 140, 70),
    "blue": (45, 75, 185),
    "yellow": (225, 200, 60),
    "purple": (125, 60, 160),
    "orange": (225, 125, 45),
    "pink": (230, 140, 175),
    "brown": (115, 75, 45),
    "black": (35, 35, 38),
    "white": (232, 232, 228),
    "grey": (130, 130, 132),
    "blond": (215, 185, 110),
}
_UPPER_COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
_SHARED: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "hair": ("short", "long"),
    "hair_colour": ("black", "brown", "blond", "grey"),
    "shoe_colour": ("black", "white", "red", "brown"),
    "bag": ("", "backpack", "handbag"),
    "hat": ("", "cap"),
}
_CLOTHES: dict[str, dict[str, tuple[str, ...]]] = {
    "all": {
        "upper": ("t-shirt", "jacket", "coat", "striped shirt"),
        "upper_colour": _UPPER_COLOURS,
        "lower": ("trousers", "shorts", "skirt"),
        "lower_colour": ("blue", "black", "brown", "green", "grey", "pink"),
    },
    "summer": {
        "upper": ("t-shirt", "striped shirt"),
        "upper_colour": _UPPER_COLOURS,
        "lower": ("shorts", "skirt"),
        "lower_colour": ("blue", "green", "grey", "pink"),
    },
    "winter": {
        "upper": ("jacket", "coat"),
        "upper_colour": _UPPER_COLOURS,
        "lower": ("trousers", "skirt"),
        "lower_colour": ("blue", "black", "brown", "green"),
    },
}


def choices(wardrobe: str = "all") -> dict[str, tuple[str, ...]]:
    """Possible values of each attribute; "" if there is no such thing."""
    if wardrobe not in _CLOTHES:
        raise ConfigError(f"wardrobe is {wardrobe!r} (expected {' | '.join(WARDROBES)})")
    return {**_SHARED, **_CLOTHES[wardrobe]}


@dataclass(frozen=True, slots=True)
class Person:
    """The attributes of an identity, in the words of `choices`."""

    gender: str
    hair: str
    hair_colour: str
    shoe_colour: str
    bag: str
    hat: str
    upper: str
    upper_colour: str
    lower: str
    lower_colour: str


@dataclass(frozen=True, slots=True)
class Appearance:
    """Appearance of a person in one picture.

    action    "walking" or "standing"
    facing    "front" or "back"
    mirrored  the picture is the mirror image
    lean, scale, shift  of the body: sideways in widths, as a factor, in pixels
    gain      of each channel, light and camera together
    noise     deviation of grey values
    backdrop  of the place
    occluder  "" or what hides a part: "low" (the feet) or "side"
    """

    action: str
    facing: str
    mirrored: bool
    lean: float
    scale: float
    shift: tuple[int, int]
    gain: tuple[float, float, float]
    noise: float
    backdrop: Shade
    occluder: str
    camera: int


def identities(wardrobe: str) -> int:
    """Number of different people."""
    return int(np.prod([len(values) for values in choices(wardrobe).values()]))


@lru_cache(maxsize=8)
def _mixed(seed: int, wardrobe: str) -> npt.NDArray[np.int64]:
    return keyed_rng("pedestrians", seed, wardrobe).permutation(identities(wardrobe))


def person(seed: int, wardrobe: str, number: int) -> Person:
    """Attributes of an identity number, different for each number. Raises ConfigError beyond the last."""
    if number >= (count := identities(wardrobe)):
        raise ConfigError(f"wardrobe {wardrobe!r} has {count:,} people, number {number:,} (expected fewer images)")
    rest, attributes = int(_mixed(seed, wardrobe)[number]), {}
    for name, values in choices(wardrobe).items():
        rest, at = divmod(rest, len(values))
        attributes[name] = values[at]
    return Person(**attributes)


CAMERAS = 6


def appearance(dice: SceneRandom, seed: int, occluded: float) -> Appearance:
    """Random appearance: all that is not the person. Cameras keep their colour cast and backdrop in all pictures of a world."""
    camera = dice.below(CAMERAS)
    own: Any = keyed_rng("pedestrian cameras", seed, camera)
    cast, backdrop = own.uniform(0.85, 1.15, 3), own.integers(70, 200, 3)
    light = dice.uniform(0.65, 1.15)
    gain = tuple(float(light * channel) for channel in cast)
    return Appearance(
        action=dice.pick(("walking", "standing")),
        facing=dice.pick(("front", "back")),
        mirrored=dice.uniform() < 0.5,
        lean=dice.uniform(-0.04, 0.04),
        scale=dice.uniform(0.9, 1.02),
        shift=(dice.between(-3, 3), dice.between(-3, 3)),
        gain=(gain[0], gain[1], gain[2]),
        noise=dice.uniform(3.0, 9.0),
        backdrop=(int(backdrop[0]), int(backdrop[1]), int(backdrop[2])),
        occluder=dice.pick(("low", "side")) if dice.uniform() < occluded else "",
        camera=camera,
    )
