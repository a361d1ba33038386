"""RandAugment (Cubuk et al., 2019, arXiv 1909.13719): a few colour and geometric operations, equally likely, all with one magnitude.

Operations, ranges and signs are those of ViLT's and LexLIP's released code: 14 operations, places that become free are black, `Posterize`
and `Solarize` are strongest at magnitude 0.  Letters: H W, C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from diptych.data.media.transforms import Pixels

Change = Callable[[Image.Image, float], Image.Image]
MOST = 30
"""Of magnitudes."""


def rand_augment(image_HWC: Pixels, rng: np.random.Generator, *, count: int = 2, magnitude: float = 9.0) -> Pixels:
    """`count` operations one after the other, drawn with replacement; `rng` decides which and in which direction they go.

    It changes colours and moves the picture: not for texts that name colours, or places near the border.
    magnitude  0..30, of each operation's range
    """
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    for number in rng.integers(len(OPERATIONS), size=count):
        change, low, high, signed = OPERATIONS[int(number)]
        value = magnitude / MOST * (high - low) + low
        image = change(image, -value if signed and rng.random() > 0.5 else value)
    return np.asarray(image)


def _solarize_added(image: Image.Image, value: float) -> Image.Image:
    brighter_HWC = np.clip(np.asarray(image).astype(np.int64) + value, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter_HWC), 128)


def _moved(across: tuple[float, float, float, float, float, float], image: Image.Image, value: float) -> Image.Image:
    """`across` is an affine change per unit of value, added to the identity."""
    identity = (1, 0, 0, 0, 1, 0)
    return image.transform(
        image.size, Image.Transform.AFFINE, tuple(i + value * a for i, a in zip(identity, across, strict=True))
    )


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance], image: Image.Image, value: float) -> Image.Image:
    return kind(image).enhance(value)


OPERATIONS: tuple[tuple[Change, float, float, bool], ...] = (
    (lambda image, _: ImageOps.autocontrast(image), 0, 1, False),
    (lambda image, _: ImageOps.equalize(image), 0, 1, False),
    (lambda image, value: image.rotate(value), 0, 30, True),
    (lambda image, value: ImageOps.posterize(image, max(1, int(value))), 0, 4, False),
    (lambda image, value: ImageOps.solarize(image, math.ceil(value)), 0, 256, False),
    (_solarize_added, 0, 110, False),
    (partial(_enhanced, ImageEnhance.Color), 0.1, 1.9, False),
    (partial(_enhanced, ImageEnhance.Contrast), 0.1, 1.9, False),
    (partial(_enhanced, ImageEnhance.Brightness), 0.1, 1.9, False),
    (partial(_enhanced, ImageEnhance.Sharpness), 0.1, 1.9, False),
    (partial(_moved, (0, 1, 0, 0, 0, 0)), 0.0, 0.3, True),
    (partial(_moved, (0, 0, 0, 1, 0, 0)), 0.0, 0.3, True),
    (partial(_moved, (0, 0, 1, 0, 0, 0)), 0.0, 100, True),
    (partial(_moved, (0, 0, 0, 0, 0, 1)), 0.0, 100, True),
)
"""Operation, lowest and highest value, whether it goes either way: autocontrast, equalize, rotate, posterize, solarize, solarize after
brightening, colour, contrast, brightness, sharpness, shear and translation (in pixels) of either axis."""
