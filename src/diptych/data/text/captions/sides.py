"""Left and right in English texts, which mirroring a picture makes untrue.

A picture that is mirrored half of the time teaches a model that "left of" and "right of" are the same, unless its text is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.data.media.transforms import flipped

Sides = Literal["keep", "swap", "ignore"]
"""What mirroring does where a text says left or right: nothing is mirrored; the words change places; the text is not looked at."""
SIDE = re.compile(r"\b(left|right)(?=(?:most|ward|wards|side|hand|-\w+)?\b)", re.IGNORECASE)
OTHER = {"left": "right", "right": "left"}

Pixels = npt.NDArray[np.uint8]


def mentions_side(text: str) -> bool:
    """True if a text contains left or right.

    >>> mentions_side("a cat left of a dog"), mentions_side("the rightmost cat"), mentions_side("a bright light")
    (True, True, False)
    """
    return SIDE.search(text) is not None


def swapped_sides(text: str) -> str:
    """The same of the mirrored picture.

    >>> swapped_sides("Left of the right-hand door, on the leftmost chair")
    'Right of the left-hand door, on the rightmost chair'
    """

    def other(match: re.Match[str]) -> str:
        word = OTHER[match.group().lower()]
        return word.upper() if match.group().isupper() else word.capitalize() if match.group()[0].isupper() else word

    return SIDE.sub(other, text)


def mirrored(image_HWC: Pixels, texts: Sequence[str], rng: np.random.Generator, sides: Sides) -> tuple[Pixels, tuple[str, ...]]:
    """Picture mirrored half of the time, with texts adjusted to it; always one random number, regardless of the texts."""
    if sides not in get_args(Sides):
        raise ConfigError(f"flip_sides is {sides!r} (expected {' | '.join(get_args(Sides))})")
    turned: Any = flipped(image_HWC, rng)
    if turned is image_HWC or sides == "ignore" or not any(map(mentions_side, texts)):
        return turned, tuple(texts)
    return (image_HWC, tuple(texts)) if sides == "keep" else (turned, tuple(map(swapped_sides, texts)))
