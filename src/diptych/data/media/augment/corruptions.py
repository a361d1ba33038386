"""Image corruptions: downscaling to a few pixels, or colour changes (STIC, 2405.19716).  Letters: H W C."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from diptych.core.errors import ConfigError

Corruption = Literal["shrink", "colours"]


def corrupt_image(
    image_HWC: npt.NDArray[np.uint8],
    kind: Corruption,
    rng: np.random.Generator,
    *,
    side: int = 20,
    brightness: float = 0.5,
    hue: float = 0.3,
) -> npt.NDArray[np.uint8]:
    """uint8 RGB, as torchvision's `Resize` and `ColorJitter` make it: the shorter side of `side` pixels, bilinear; or brightness times
    1 - b to 1 + b and hue moved by at most `hue` of a turn, in either order. `rng` is not drawn from for "shrink".
    """
    from torchvision import transforms

    if side < 1 or not 0 <= hue <= 0.5 or brightness < 0:
        raise ConfigError(f"side {side}, brightness {brightness:g}, hue {hue:g} (expected 1 or more, 0 or more, and 0 to 0.5)")
    picture = Image.fromarray(image_HWC)
    if kind == "shrink":
        return np.asarray(transforms.Resize(size=side)(picture))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        return np.asarray(transforms.ColorJitter(brightness=brightness, hue=hue)(picture))
