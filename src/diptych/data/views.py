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


def hidden_patches(draws: Draws, *, patches: int, share: float, spread: float = 0.0) -> tuple[Tensor, Tensor]:
    """hidden_BP bool and place_BM int64: round(share * patches) patches of each image at random, in order.

    With a spread, each image's share is drawn evenly from share - spread to share + spread, and place_BM ends in -1 where an image
    has fewer than the most that can be.
    """
    if not 0 <= share - abs(spread) <= share + abs(spread) < 1:
        raise ConfigError(f"the share of hidden patches is {share} +- {spread} (expected at least 0, below 1)")
    place_BM = torch.full((len(draws), round((share + abs(spread)) * patches)), -1, dtype=torch.int64)
    hidden_BP = torch.zeros(len(draws), patches, dtype=torch.bool)
    for row, draw in enumerate(draws):
        count = round((share + draw.rng.uniform(-spread, spread) if spread else share) * patches)
        place_BM[row, :count] = torch.from_numpy(np.sort(draw.rng.permutation(patches)[:count]))
        hidden_BP[row, place_BM[row, :count]] = True
    return hidden_BP, place_BM
