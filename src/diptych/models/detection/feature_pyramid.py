"""Maps of several strides as one sequence of tokens with position embeddings, the input of deformable encoders and decoders.

Letters: B batch, C channel, H W, P positions of all levels, L levels, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.data.constants import constant
from diptych.models.detection.point_sampling import Shapes
from diptych.models.layers.sine_position import map_sine


@dataclass(frozen=True, slots=True)
class PyramidTokens:
    """Tokens of all levels, finest first, row by row.

    position_BPD  sine position plus a learned vector per level; its first size is 1 when no image is padded
    mask_BP       True at real positions; None when no image is padded
    valid_BL2     the share of each map's (width, height) that is real; None when no image is padded
    """

    tokens_BPD: Tensor
    position_BPD: Tensor
    shapes: Shapes
    mask_BP: Tensor | None = None
    valid_BL2: Tensor | None = None

    @property
    def coarsest(self) -> slice:
        """The places of the last level."""
        height, width = self.shapes[-1]
        return slice(self.tokens_BPD.shape[1] - height * width, None)

    def in_levels(self, reference_BQC: Tensor) -> Tensor:
        """[B, Q, L, C]: points or boxes in 0..1 of the image, as they lie in the padded map of each level."""
        if self.valid_BL2 is None:
            return reference_BQC[:, :, None].expand(-1, -1, len(self.shapes), -1)
        valid_B1LC = self.valid_BL2.repeat(1, 1, reference_BQC.shape[-1] // 2)[:, None]
        return reference_BQC[:, :, None] * valid_B1LC

    def centres(self) -> Tensor:
        """[B, P, 2]: the centre of every place, (x, y) in 0..1 of the image (beyond 1 on padding)."""
        device, dtype = self.tokens_BPD.device, self.position_BPD.dtype
        points = []
        for level, (height, width) in enumerate(self.shapes):
            y_H = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
            x_W = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
            point_P2 = torch.stack((x_W.expand(height, -1), y_H[:, None].expand(-1, width)), -1).flatten(0, 1)
            points.append(point_P2[None] if self.valid_BL2 is None else point_P2 / self.valid_BL2[:, None, level])
        return torch.cat(points, 1).expand(len(self.tokens_BPD), -1, -1)


def pad_single_column(map_BCHW: Tensor) -> Tensor:
    """A map of one column with a column of zeros after it, any other as it is: what a 3 x 3 convolution of stride 2 answers is the same.

    In bfloat16 on processors (oneDNN), the gradient of such a convolution's weight holds what happened to lie in memory for the taps that
    a single column never reaches.
    """
    return F.pad(map_BCHW, (0, 1)) if map_BCHW.shape[3] == 1 else map_BCHW


class FeaturePyramid(nn.Module):
    """Brings maps to one width (1 x 1 convolution, GroupNorm), adds coarser levels from the last map (3 x 3, stride 2), and
    positions.

    levels   of the result; more than there are maps adds coarser ones, and one level alone takes the coarsest map
    centred  see `map_sine`
    groups   of the GroupNorms, 32 as published; None: the most of 32, 16, 8, ... that leave four channels a group (32 at width 256)
    """

    def __init__(
        self, channels: tuple[int, ...], width: int, *, levels: int, centred: bool = False, groups: int | None = None
    ) -> None:
        super().__init__()
        if levels < len(channels) and levels != 1:
            raise ConfigError(f"{levels} levels for {len(channels)} maps (expected {len(channels)} or more, or 1)")
        self.used = channels[-1:] if levels == 1 else channels
        extra = [self.used[-1], *[width] * (levels - len(self.used))]
        groups = groups or next(count for count in (32, 16, 8, 4, 2, 1) if width % count == 0 and width // count >= 4)
        self.project = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(count, width, 1), nn.GroupNorm(groups, width)) for count in self.used]
            + [nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(groups, width)) for a, b in pairwise(extra)]
        )
        for layer in self.project:
            nn.init.xavier_uniform_(layer[0].weight)  # type: ignore[index]
            nn.init.zeros_(layer[0].bias)  # type: ignore[index]
        self.width, self.centred = width, centred
        self.level_LD = nn.Parameter(torch.randn(levels, width))

    def forward(self, maps: list[Tensor], pixel_BHW: Tensor | None = None) -> PyramidTokens:
        """`pixel_BHW` is True at real pixels; None when no image is padded."""
        maps = maps[-len(self.used) :]
        levels = [layer(map_) for layer, map_ in zip(self.project, maps, strict=False)]
        for layer in list(self.project)[len(maps) :]:
            levels.append(layer(pad_single_column(maps[-1] if len(levels) == len(maps) else levels[-1])))
        shapes = tuple((level.shape[2], level.shape[3]) for level in levels)
        masks = [self._mask(level, pixel_BHW) for level in levels]
        position = [
            map_sine(mask_BHW, self.width, centred=self.centred, dtype=self.level_LD.dtype) + level_D
            for mask_BHW, level_D in zip(masks, self.level_LD, strict=True)
        ]
        valid = [torch.stack((mask_BHW[:, 0].sum(1), mask_BHW[:, :, 0].sum(1)), -1) for mask_BHW in masks]
        size_L2 = constant([(width, height) for height, width in shapes], device=levels[0].device)
        return PyramidTokens(
            torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2),
            torch.cat(position, 1),
            shapes,
            None if pixel_BHW is None else torch.cat([mask_BHW.flatten(1) for mask_BHW in masks], 1),
            None if pixel_BHW is None else torch.stack(valid, 1).to(self.level_LD.dtype) / size_L2,
        )

    def _mask(self, level_BDHW: Tensor, pixel_BHW: Tensor | None) -> Tensor:
        sides = level_BDHW.shape[2:]
        if pixel_BHW is None:
            return torch.ones(1, *sides, dtype=torch.bool, device=level_BDHW.device)
        return F.interpolate(pixel_BHW[:, None].float(), size=sides)[:, 0] > 0.5
