"""Left and right in English texts: what a mirrored picture makes untrue.

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


def sided(text: str) -> bool:
    """Whether it says left or right.

    >>> sided("a cat left of a dog"), sided("the rightmost cat"), sided("a bright light")
    (True, True, False)
    """
    return SIDE.search(text) is not None


def other_sides(text: str) -> str:
    """The same of the mirrored picture.

    >>> other_sides("Left of the right-hand door, on the leftmost chair")
    'Right of the left-hand door, on the rightmost chair'
    """

    def other(match: re.Match[str]) -> str:
        word = OTHER[match.group().lower()]
        return word.upper() if match.group().isupper() else word.capitalize() if match.group()[0].isupper() else word

    return SIDE.sub(other, text)


def mirrored(image_HWC: Pixels, texts: Sequence[str], rng: np.random.Generator, sides: Sides) -> tuple[Pixels, tuple[str, ...]]:
    """The picture, mirrored half of the time, with texts that are true of it; one number of the generator whatever the texts say."""
    if sides not in get_args(Sides):
        raise ConfigError(f"flip_sides is {sides!r} (expected {' | '.join(get_args(Sides))})")
    turned: Any = flipped(image_HWC, rng)
    if turned is image_HWC or sides == "ignore" or not any(map(sided, texts)):
        return turned, tuple(texts)
    return (image_HWC, tuple(texts)) if sides == "keep" else (turned, tuple(map(other_sides, texts)))
