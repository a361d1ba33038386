"""Several views of an image, and patches to hide.  Letters: B batch, V views, C channel, H W, P patches, M hidden ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Draws
from diptych.core.errors import ConfigError
from diptych.data.batch import pixels
from diptych.data.transforms import Preprocess, random_crop


def local_views(draws: Draws, preprocess: Preprocess, *, count: int, size: int, scale: tuple[float, float]) -> Tensor:
    """[B, V, C, size, size]: small random parts of each image. The draw's own generator decides; call it after the global view."""
    if count < 1:
        return torch.zeros(len(draws), 0, 3, size, size)
    parts = [random_crop(pixels(draw), size, draw.rng, scale) for draw in draws for _ in range(count)]
    return preprocess.normalise(np.stack(parts)).reshape(len(draws), count, 3, size, size)


def hidden_patches(draws: Draws, *, patches: int, share: float) -> tuple[Tensor, Tensor]:
    """hidden_BP bool and place_BM int64: round(share * patches) patches of each image at random, the same number in all, in order."""
    if not 0 <= share < 1:
        raise ConfigError(f"the share of hidden patches is {share} (expected at least 0, below 1)")
    count = round(share * patches)
    place_BM = torch.from_numpy(np.stack([np.sort(draw.rng.permutation(patches)[:count]) for draw in draws]).astype(np.int64))
    hidden_BP = torch.zeros(len(draws), patches, dtype=torch.bool)
    return hidden_BP.scatter_(1, place_BM, True), place_BM
