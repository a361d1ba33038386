"""RandAugment (Cubuk et al., 2019, arXiv 1909.13719) as timm has it with `inc1`: every operation is stronger the larger its magnitude.

15 operations. Operations, ranges, signs and the order of draws are those of timm 0.4.12 as of later versions; LexLIP's
form, with 14 operations that are weakest at different ends, is `rand_augment`.  Letters: H W, C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from diptych.data.media.transforms import Pixels

MOST = 10.0
"""Of magnitudes."""

Fill = tuple[int, ...]
Change = Callable[[Image.Image, float, Fill], Image.Image]


def increasing_augment(
    image_HWC: Pixels,
    rng: np.random.Generator,
    *,
    mean: Sequence[float],
    count: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.5,
    chance: float = 0.5,
) -> Pixels:
    """`count` operations one after the other, drawn with replacement, each done with this chance: timm's `rand-m9-mstd0.5-inc1`.

    It changes colours and moves the picture: not for texts that name colours, or places near the border.
    mean       of the pixels, 0..1 a channel: the colour of places that become free
    magnitude  0..10, to which a normal draw of this deviation is added, cut to 0..10
    """
    image, fill = Image.fromarray(np.ascontiguousarray(image_HWC)), tuple(min(255, round(255 * value)) for value in mean)
    for number in rng.integers(len(OPERATIONS), size=count):
        change, signed = OPERATIONS[int(number)]
        if rng.random() > chance:
            continue
        share = min(max(float(rng.normal(magnitude, deviation)), 0.0), MOST) / MOST
        image = change(image, -share if signed and rng.random() > 0.5 else share, fill)
    return np.asarray(image)


def _rotated(image: Image.Image, share: float, fill: Fill) -> Image.Image:
    return image.rotate(share * 30.0, resample=Image.Resampling.BILINEAR, fillcolor=fill)


def _posterized(image: Image.Image, share: float, fill: Fill) -> Image.Image:
    """At the largest magnitude no bit is kept, and the picture is black: Pillow had it so, whose later versions refuse 0 bits."""
    bits = 4 - int(share * 4)
    return ImageOps.posterize(image, bits) if bits else image.point([0] * 256 * len(image.getbands()))


def _solarized(image: Image.Image, share: float, fill: Fill) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(share * 256))


def _darks_brightened(image: Image.Image, share: float, fill: Fill) -> Image.Image:
    """Values below 128 are brightened by up to 110."""
    added = int(share * 110)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance], image: Image.Image, share: float, fill: Fill) -> Image.Image:
    return kind(image).enhance(max(0.1, 1.0 + share * 0.9))


def _moved(across: tuple[float, float], down: tuple[float, float], image: Image.Image, share: float, fill: Fill) -> Image.Image:
    """`across` and `down` are the shear, and the shift as a share of the side, of a row of the affine change, per unit of share."""
    wide, high = image.size
    changed = (1, across[0] * share, across[1] * share * wide, down[0] * share, 1, down[1] * share * high)
    return image.transform(image.size, Image.Transform.AFFINE, changed, resample=Image.Resampling.BILINEAR, fillcolor=fill)


OPERATIONS: tuple[tuple[Change, bool], ...] = (
    (lambda image, share, fill: ImageOps.autocontrast(image), False),
    (lambda image, share, fill: ImageOps.equalize(image), False),
    (lambda image, share, fill: ImageOps.invert(image), False),
    (_rotated, True),
    (_posterized, False),
    (_solarized, False),
    (_darks_brightened, False),
    (partial(_enhanced, ImageEnhance.Color), True),
    (partial(_enhanced, ImageEnhance.Contrast), True),
    (partial(_enhanced, ImageEnhance.Brightness), True),
    (partial(_enhanced, ImageEnhance.Sharpness), True),
    (partial(_moved, (0.3, 0.0), (0.0, 0.0)), True),
    (partial(_moved, (0.0, 0.0), (0.3, 0.0)), True),
    (partial(_moved, (0.0, 0.45), (0.0, 0.0)), True),
    (partial(_moved, (0.0, 0.0), (0.0, 0.45)), True),
)
"""Operation and whether it goes either way: autocontrast, equalize, invert, rotate, posterize, solarize, brighten what is dark, colour,
contrast, brightness, sharpness, shear and translation (by a share of the side) of either axis."""
