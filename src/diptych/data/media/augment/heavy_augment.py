"""SyViC's heavy augmentation (2303.17590): three times two operations of nine, each with a chance and a strength of its own.

It inverts and shifts colours: not for texts that name them, although the release uses it on such. Letters: H W, C.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

ROUNDS, MOST = 3, 10
"""Policies of two operations that an image goes through, and the number of strengths."""
Operation = Callable[[Image.Image, int], Image.Image]


def _enhanced(kind: Any, image: Image.Image, strength: int) -> Image.Image:
    made: Image.Image = kind(image).enhance(strength * 1.8 / MOST + 0.1)
    return made


OPERATIONS: tuple[Operation, ...] = (
    lambda image, strength: ImageOps.invert(image),
    partial(_enhanced, ImageEnhance.Contrast),
    partial(_enhanced, ImageEnhance.Sharpness),
    lambda image, strength: ImageOps.autocontrast(image),
    lambda image, strength: ImageOps.equalize(image),
    lambda image, strength: ImageOps.posterize(image, 4 - int(strength * 4 / MOST)),
    partial(_enhanced, ImageEnhance.Color),
    partial(_enhanced, ImageEnhance.Brightness),
    lambda image, strength: ImageOps.solarize(image, 256 - int(strength * 256 / MOST)),
)
"""Invert, contrast, sharpness, autocontrast, equalize, posterize, colour, brightness, solarize."""


def heavy_augment(image_HWC: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Other pixels of the same shape. The release draws its 25 policies once a run; here each round draws a fresh one."""
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    for _ in range(2 * ROUNDS):
        operation, chance, strength = OPERATIONS[int(rng.integers(len(OPERATIONS)))], rng.random(), int(rng.integers(MOST))
        if rng.random() <= chance:
            image = operation(image, strength)
    return np.asarray(image)
