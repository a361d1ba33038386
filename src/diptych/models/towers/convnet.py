"""Small convolutional tower similar to ConvNeXt (2201.03545).  Letters: B batch, C channel, H W, P positions, D width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.towers.outputs import Tower, TowerOutput


class ConvBlock(nn.Module):
    """x + mlp(norm(depthwise convolution(x))), channels last inside."""

    def __init__(self, width: int, *, kernel: int = 5) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BHWD: Tensor) -> Tensor:
        spread_BHWD = self.spread(x_BHWD.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed_BHWD: Tensor = self.mlp(self.norm(spread_BHWD))
        return x_BHWD + mixed_BHWD


class ConvNet(Tower):
    """Convolutional encoder of images whose side is a multiple of 4 * 2^(stages - 1) to a grid of tokens and their mean.

    Unlike the transformers it accepts any such size and has no positions. Norms are LayerNorms, so nothing depends on the batch.
    """

    def __init__(
        self, *, image_size: int = 64, widths: Sequence[int] = (64, 128, 256), depths: Sequence[int] = (2, 2, 2)
    ) -> None:
        super().__init__()
        if len(widths) != len(depths) or not widths:
            raise ConfigError(f"{len(widths)} widths but {len(depths)} depths (expected one of each a stage)")
        self.stride = 4 * 2 ** (len(widths) - 1)
        if image_size % self.stride:
            raise ConfigError(f"images of {image_size} pixels do not fit this tower (expected a multiple of {self.stride})")
        self.image_size, self.width = image_size, widths[-1]
        self.shrink = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.stages = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            step = 4 if stage == 0 else 2
            self.shrink.append(nn.Conv2d(3 if stage == 0 else widths[stage - 1], width, step, stride=step))
            self.norms.append(nn.LayerNorm(width))
            self.stages.append(nn.Sequential(*(ConvBlock(width) for _ in range(depth))))
        self.norm_after = nn.LayerNorm(self.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: truncated normal (at two units) with standard deviation .02, biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        if image_BCHW.shape[1] != 3 or image_BCHW.shape[2] % self.stride or image_BCHW.shape[3] % self.stride:
            raise ShapeError(f"images must be [B, 3, H, W] with sides divisible by {self.stride}, got {list(image_BCHW.shape)}")
        x_BHWD = image_BCHW.permute(0, 2, 3, 1)
        for shrink, norm, blocks in zip(self.shrink, self.norms, self.stages, strict=True):
            x_BHWD = blocks(norm(shrink(x_BHWD.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        tokens_BPD = self.norm_after(x_BHWD.flatten(1, 2))
        return TowerOutput(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool), tokens_BPD.mean(1))
