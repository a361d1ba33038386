"""Blind baseline: the same requests with grey pictures. Its score is what a model reaches without the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diptych.core.image import ArrayImage, ImageSource
from diptych.data.media.decode import decode

GREY = 128
BLIND = "/blind"
"""How names of metrics of the blind row end."""


def grey_images(images: Sequence[ImageSource]) -> list[ArrayImage]:
    """Grey images (level 128 of 255) of the sizes of the given ones, so that models with tiles see as many of them."""
    made: dict[int, ArrayImage] = {}
    for image in images:
        if id(image) not in made:
            made[id(image)] = ArrayImage(np.full(decode(image, exact=True).shape, GREY, np.uint8), image.name)
    return [made[id(image)] for image in images]
