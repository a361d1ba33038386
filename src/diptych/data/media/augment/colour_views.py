"""Views with other colours: ProtoCLIP's light augmentation (Chen et al., 2022, arXiv 2206.10996), SimCLR's with smaller chances."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def recoloured(
    image_HWC: Pixels,
    rng: np.random.Generator,
    *,
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
    blur: int = 21,
    sigma: tuple[float, float] = (0.1, 2.0),
    chance: float = 0.2,
) -> Pixels:
    """Three changes, each in a share of cases: colours jittered, colours taken away, blurred. Those of torchvision, drawn from `rng`.

    jitter  brightness, contrast and saturation are multiplied by 1 - j to 1 + j, hue is turned by up to h of the circle, in random order
    blur    side of the Gaussian window in pixels; `sigma` its least and most deviation
    """
    from torchvision.transforms import functional  # takes half a second, and only who asks for it waits

    changes: tuple[Any, ...] = (
        functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue,
    )  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    if rng.random() < chance:
        middle = (1.0, 1.0, 1.0, 0.0)
        factors = [float(rng.uniform(at - width, at + width)) for at, width in zip(middle, jitter, strict=True)]
        for number in rng.permutation(4):
            image = changes[number](image, factors[number])
    if rng.random() < chance:
        image = functional.to_grayscale(image, 3)
    if rng.random() < chance:
        image = functional.gaussian_blur(image, [blur, blur], [float(rng.uniform(*sigma))] * 2)
    return np.asarray(image)
