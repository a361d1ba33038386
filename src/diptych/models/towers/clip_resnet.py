"""CLIP's residual network (2103.00020).  Letters: B batch, C channel, H W, P positions, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.towers.attention_pool import MeanQueryPool
from diptych.models.towers.outputs import Tower, TowerOutput

STRIDE = 32


class Bottleneck(nn.Module):
    """Residual bottleneck of 1x1, 3x3, 1x1 convolutions. For downsampling, an average pool precedes a convolution of stride 1."""

    def __init__(self, inside: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv_1, self.norm_1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv_2, self.norm_2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv_3, self.norm_3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shrink = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        fits = stride == 1 and inside == 4 * width
        self.short = nn.Identity() if fits else nn.Conv2d(inside, 4 * width, 1, bias=False)
        self.short_norm = nn.Identity() if fits else nn.BatchNorm2d(4 * width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.norm_1(self.conv_1(x_BCHW)).relu()
        y_BCHW = self.shrink(self.norm_2(self.conv_2(y_BCHW)).relu())
        y_BCHW = self.norm_3(self.conv_3(y_BCHW))
        out_BCHW: Tensor = (y_BCHW + self.short_norm(self.short(self.shrink(x_BCHW)))).relu()
        return out_BCHW


class MaxPoolProjection(nn.Module):
    """[B, P, D] to [B, out]: max pooling over positions, then a projection with a bias (PLIP for persons, 2305.08386)."""

    def __init__(self, width: int, *, out: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, out)

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        pooled_BD: Tensor = self.out(tokens_BPD.amax(1))
        return pooled_BD


class CLIPResNet(Tower):
    """CLIP's residual network: images [B, 3, image_height, image_size] to a feature grid and one vector of `out` dimensions.

    Images are square unless `image_height` is set. The vector is in the joint space.

    Differences from the common ResNet-D: three convolutions and an average pool at the start, average pools instead of strides,
    and attention instead of the last average pool. `depths` are blocks per stage;
    `width` is the number of channels of the first stage; the last has 32 times as many, split into `heads`. `pool` "max":
    projected max pooling instead of attention. Batch norms use the whole batch, so gradient caching, which runs it in chunks,
    is not exact here.
    """

    projects = True

    def __init__(
        self,
        *,
        image_size: int = 224,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        heads: int = 32,
        out: int = 1024,
        image_height: int | None = None,
        pool: Literal["attention", "max"] = "attention",
    ) -> None:
        super().__init__()
        height = image_height or image_size
        if image_size % STRIDE or height % STRIDE:
            shown = f"{height} x {image_size}" if image_height else f"{image_size}"
            raise ConfigError(f"images of {shown} pixels do not fit this tower (expected a multiple of {STRIDE})")
        if pool not in ("attention", "max"):
            raise ConfigError(f"pool is {pool!r} (expected attention | max)")
        if len(depths) != 4:
            raise ConfigError(f"depths has {len(depths)} stages (expected 4)")
        self.image_size, self.image_height, self.width, self._channels = image_size, height, out, 32 * width
        self.conv_1, self.norm_1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv_2, self.norm_2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv_3, self.norm_3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.shrink = nn.AvgPool2d(2)
        self.stages, inside = nn.ModuleList(), width
        for stage, depth in enumerate(depths):
            blocks: list[nn.Module] = []
            for block in range(depth):
                blocks.append(Bottleneck(inside, width * 2**stage, stride=2 if stage and not block else 1))
                inside = 4 * width * 2**stage
            self.stages.append(nn.Sequential(*blocks))
        self.channels = tuple(4 * width * 2**stage for stage in range(4))
        """Channels of the map after each stage, at strides 4, 8, 16 and 32."""
        self.pool: MeanQueryPool | MaxPoolProjection = (
            MeanQueryPool(inside, heads, positions=(image_size // STRIDE) * (height // STRIDE), out=out)
            if pool == "attention"
            else MaxPoolProjection(inside, out=out)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: the last norm of every block is zero, so that each block starts as its shortcut."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm_3.weight)

    @property
    def token_width(self) -> int:
        return self._channels

    def maps(self, image_BCHW: Tensor) -> list[Tensor]:
        """Return the map after each stage, [B, channels, H, W] at strides 4, 8, 16 and 32,
        for images with sides divisible by 32.
        """
        if image_BCHW.shape[2] % STRIDE or image_BCHW.shape[3] % STRIDE:
            raise ShapeError(f"images are {list(image_BCHW.shape)} (expected sides that are multiples of {STRIDE})")
        x_BCHW = image_BCHW
        for conv, norm in ((self.conv_1, self.norm_1), (self.conv_2, self.norm_2), (self.conv_3, self.norm_3)):
            x_BCHW = norm(conv(x_BCHW)).relu()
        x_BCHW = self.shrink(x_BCHW)
        maps = []
        for blocks in self.stages:
            x_BCHW = blocks(x_BCHW)
            maps.append(x_BCHW)
        return maps

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        if image_BCHW.shape[1:] != (3, self.image_height, self.image_size):
            expected = ["B", 3, self.image_height, self.image_size]
            raise ShapeError(f"images must be {expected}, got {list(image_BCHW.shape)}")
        return self.pooled(self.maps(image_BCHW)[-1])

    def pooled(self, last_BCHW: Tensor) -> TowerOutput:
        """Return the output of the tower from the last of `maps`."""
        tokens_BPD = last_BCHW.flatten(2).transpose(1, 2)
        return TowerOutput(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool), self.pool(tokens_BPD))
