"""Dynamic head (Dai et al., 2021, arXiv 2106.08322): maps of all strides attend to each other by place, by stride and by channel.

Letters: B batch, D width, H W rows and columns of a map, K the nine places of a kernel, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from diptych.core.errors import ConfigError

Coarser = Literal["released", "resized"]
KERNEL = 9
"""Places of a 3 x 3 kernel."""


class ModulatedDeformConv(nn.Module):
    """3 x 3 convolution whose places are shifted and weighed (1811.11168), then GroupNorm: attention over places."""

    def __init__(self, width: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(width, width, 3, 3))
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.GroupNorm(groups, width)
        bound = (width * KERNEL) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x_BDHW: Tensor, shift_BKHW: Tensor, share_BKHW: Tensor) -> Tensor:
        """shift_BKHW holds (row, column) of each place of the kernel, 18 channels, at the size of the result; share_BKHW weights."""
        # Never in half precision, as in the release; not every device has it there.
        given = (x_BDHW, shift_BKHW, share_BKHW)
        x_BDHW, shift_BKHW, share_BKHW = (each.to(self.weight.dtype) for each in given)
        found_BDHW = deform_conv2d(x_BDHW, shift_BKHW, self.weight, self.bias, stride=self.stride, padding=1, mask=share_BKHW)
        out_BDHW: Tensor = self.norm(found_BDHW)
        return out_BDHW


class DynamicReLU(nn.Module):
    """max(a1 x + b1, a2 x + b2) a channel, with a and b read from the mean of the map (2003.10027): attention over channels.

    a1 lies in 0 .. 2, the other three in -1 .. 1, -1/2 .. 1/2 and -1/2 .. 1/2; near the start it is a ReLU.
    """

    def __init__(self, width: int, *, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze, self.expand = nn.Linear(width, width // reduction), nn.Linear(width // reduction, 4 * width)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        coefficient_B4D = hard_sigmoid(self.expand(F.relu(self.squeeze(x_BDHW.mean((2, 3))))))
        slope_BD, height_BD, slope_2_BD, height_2_BD = (part[..., None, None] - 0.5 for part in coefficient_B4D.chunk(4, 1))
        return torch.maximum(x_BDHW * (2 * slope_BD + 1) + height_BD, x_BDHW * 2 * slope_2_BD + height_2_BD)


class DynamicBlock(nn.Module):
    """One round of the head: every map becomes the mean of itself, of the finer one (stride 2) and of the coarser one (upsampled), each
    convolved at learned places and weighed by one number of its own; then `DynamicReLU`.

    coarser  shifts are learned at the size of a map, and the coarser map is convolved at its own. "released": the release hands the
             numbers over as they lie in memory, so that the coarser map is read with the first quarter of them, in an order that means
             nothing; published weights were trained so and need it. "resized": resampled to the coarser map.
    """

    def __init__(self, width: int, *, groups: int = 16, coarser: Coarser = "released") -> None:
        super().__init__()
        if coarser not in ("released", "resized"):
            raise ConfigError(f"coarser is {coarser!r} (expected released | resized)")
        self.coarser = coarser
        self.from_coarser, self.own = (ModulatedDeformConv(width, stride=1, groups=groups) for _ in range(2))
        self.from_finer = ModulatedDeformConv(width, stride=2, groups=groups)
        self.places = nn.Conv2d(width, 3 * KERNEL, 3, padding=1)
        self.level = nn.Conv2d(width, 1, 1)
        self.channels = DynamicReLU(width)
        nn.init.normal_(self.level.weight, std=0.01)
        nn.init.zeros_(self.level.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, D, H, W], the finest first, each half as high and wide as the one before (rounded up)."""
        return [self.channels(self._met(maps, level)) for level in range(len(maps))]

    def _met(self, maps: Sequence[Tensor], level: int) -> Tensor:
        own_BDHW = maps[level]
        offset_mask_BKHW = self.places(own_BDHW)
        shift_BKHW, share_BKHW = offset_mask_BKHW[:, : 2 * KERNEL], offset_mask_BKHW[:, 2 * KERNEL :].sigmoid()
        levels = [self.own(own_BDHW, shift_BKHW, share_BKHW)]
        if level:
            levels.append(self.from_finer(maps[level - 1], shift_BKHW, share_BKHW))
        if level + 1 < len(maps):
            size = maps[level + 1].shape[2:]
            small_BDHW = self.from_coarser(maps[level + 1], self._at(shift_BKHW, size), self._at(share_BKHW, size))
            levels.append(F.interpolate(small_BDHW, size=own_BDHW.shape[2:], mode="bilinear", align_corners=True))
        weighed = [x_BDHW * hard_sigmoid(F.relu(self.level(x_BDHW.mean((2, 3), keepdim=True)))) for x_BDHW in levels]
        return torch.stack(weighed).mean(0)

    def _at(self, x_BKHW: Tensor, size: torch.Size) -> Tensor:
        """The coarser map at the size of this one, as input of its convolution."""
        if self.coarser == "resized":
            return F.interpolate(x_BKHW, size=size, mode="bilinear", align_corners=True)
        batch, channels = x_BKHW.shape[:2]
        first = x_BKHW.flatten(1)[:, : channels * size.numel()]
        return first.view(batch, channels, *size)


class DynamicHead(nn.Module):
    """Rounds of `DynamicBlock` over maps of one width."""

    def __init__(self, width: int, rounds: int, *, groups: int = 16, coarser: Coarser = "released") -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DynamicBlock(width, groups=groups, coarser=coarser) for _ in range(rounds))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = list(maps)
        for block in self.blocks:
            levels = block(levels)
        return levels


def hard_sigmoid(x_X: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x_X + 3) / 6
