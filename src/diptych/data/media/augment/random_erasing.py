"""Random erasing (Zhong et al., 2017, arXiv 1708.04896) as timm has it.  Letters: C channel, H W pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

ATTEMPTS = 10


def erase_(
    image_CHW: Tensor,
    rng: np.random.Generator,
    *,
    chance: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """With this chance the pixels of one box become normal noise, each of its own (timm's mode `pixel`); changes a normalised image.

    The box covers a share of the picture drawn from `area`; its height / width is drawn log-uniformly. It is smaller than the picture both
    ways: after ten draws that are not, the picture stays.
    """
    if rng.random() > chance:
        return image_CHW
    channels, height, width = image_CHW.shape
    for _ in range(ATTEMPTS):
        covered = rng.uniform(*area) * height * width
        shape = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        high, wide = round(math.sqrt(covered * shape)), round(math.sqrt(covered / shape))
        if high < height and wide < width:
            top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
            noise_CHW = torch.from_numpy(rng.standard_normal((channels, high, wide)))
            image_CHW[:, top : top + high, left : left + wide] = noise_CHW.to(image_CHW)
            break
    return image_CHW
