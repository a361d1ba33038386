"""Rotation of overhead pictures, and texts that a rotation makes untrue.  Letters: H W, C."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from diptych.data.media.transforms import Pixels

DIRECTION = re.compile(
    r"\b(left|right|top|bottom|upper|lower|above|below|north|south|east|west|horizontal|vertical|upside)"
    r"(?:most|ward|wards|ern|east|west|side|hand|ly|-\w+)*\b",
    re.IGNORECASE,
)


def mentions_direction(text: str) -> bool:
    """True if an English text contains a direction in the picture or of the compass.

    >>> mentions_direction("ships north of the pier"), mentions_direction("the upper-left court"), mentions_direction("a bright stop")
    (True, True, False)
    """
    return DIRECTION.search(text) is not None


def rotated(image_HWC: Pixels, rng: np.random.Generator, degrees: tuple[float, float] = (0.0, 360.0)) -> Pixels:
    """Picture of the same size, turned counter-clockwise by a uniform angle about its centre; free corners are black, pixels the nearest
    ones (torchvision's `RandomRotation`). One random number, always."""
    angle = float(rng.uniform(*degrees))
    if angle % 360 == 0:
        return image_HWC
    picture = Image.fromarray(np.ascontiguousarray(image_HWC))
    return np.asarray(picture.rotate(angle, resample=Image.Resampling.NEAREST, fillcolor=(0, 0, 0)))
