"""Patch embedding as a tower without layers, for language models without a separate vision encoder (Mono-InternVL, 2410.08202).

Letters: B batch, C channel, H W, P patches, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.towers.outputs import Tower, TowerOutput


class PatchEmbeddingTower(Tower):
    """Patch convolution and learned positions, which are resized (bicubic) for square images of another size."""

    def __init__(self, *, image_size: int = 448, patch: int = 14, width: int = 1024) -> None:
        super().__init__()
        if image_size % patch:
            raise ConfigError(f"images of {image_size} pixels cannot be cut into patches of {patch} (expected a divisor)")
        self.image_size, self.patch, self.width = image_size, patch, width
        self.convolution = nn.Conv2d(3, width, patch, stride=patch)
        self.position_PD = nn.Parameter(torch.randn((image_size // patch) ** 2, width))

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        side = image_BCHW.shape[-1]
        if image_BCHW.shape[1:] != (3, side, side) or side % self.patch:
            raise ShapeError(f"images must be ['B', 3, S, S] with S a multiple of {self.patch}, got {list(image_BCHW.shape)}")
        token_BPD = self.convolution(image_BCHW).flatten(2).transpose(1, 2) + self._positions(side // self.patch)
        return TowerOutput(token_BPD, token_BPD.new_ones(token_BPD.shape[:2]).bool(), token_BPD.mean(1))

    def _positions(self, side: int) -> Tensor:
        own = math.isqrt(len(self.position_PD))
        if side == own:
            return self.position_PD
        grid_1DHW = self.position_PD.float().T.reshape(1, self.width, own, own)
        resized = F.interpolate(grid_1DHW, size=(side, side), mode="bicubic", align_corners=False)
        return resized.flatten(2)[0].T.to(self.position_PD.dtype)
