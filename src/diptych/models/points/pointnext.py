"""PointNeXt-S (2206.04670) as ULIP's release has it: residual set abstraction, with the height of each point as a feature.

Letters: B clouds, P points, G centres, K neighbours, C channels, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.points.sampling import ball_query, furthest_points, gather_points


@dataclass(frozen=True)
class PointNeXtSettings:
    """Sizes of a `PointNeXt`; the defaults are ULIP's.

    width       channels of the first layer; each level has twice as many as the one before, and half of its points
    levels      with sampling, before the one that takes the maximum over all points
    radius, growth  of the balls of the first level, and the factor for each further level
    neighbours  of a ball
    head        widths of the layers after the maximum; the last one is the width of the vector
    dropout     after each layer of the head
    """

    width: int = 32
    levels: int = 4
    radius: float = 0.15
    growth: float = 1.5
    neighbours: int = 32
    head: tuple[int, ...] = (512, 256)
    dropout: float = 0.5
    in_channels: ClassVar[int] = 3
    projection_bias: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if min(self.width, self.levels, self.neighbours) < 1 or self.radius <= 0 or not self.head:
            raise ConfigError(
                f"width {self.width}, {self.levels} levels, {self.neighbours} neighbours within {self.radius}, head {self.head} "
                "(expected 1 or more, a radius above 0, and a layer in the head)"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**{**plain, "head": tuple(plain["head"])})


class PointMLP(nn.Module):
    """1x1 convolutions without bias, each with batch norm and ReLU, on [B, C, G, K]; the last ReLU is optional."""

    def __init__(self, widths: Sequence[int], *, last_relu: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.last_relu = last_relu

    def forward(self, x_BCGK: Tensor) -> Tensor:
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), 1):
            x_BCGK = norm(conv(x_BCGK))
            if number < len(self.convs) or self.last_relu:
                x_BCGK = x_BCGK.relu()
        return x_BCGK


class ResidualSetAbstraction(nn.Module):
    """Samples half of the points (furthest-point sampling) and adds the maximum over the ball around each to its features."""

    def __init__(self, width: int, out: int, radius: float, neighbours: int) -> None:
        super().__init__()
        self.radius, self.neighbours = radius, neighbours
        self.mlp = PointMLP((width + 3, out // 2, out), last_relu=False)
        self.shortcut = nn.Conv1d(width, out, 1)

    def forward(self, xyz_BP3: Tensor, feature_BPC: Tensor, start_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Centres [B, P // 2, 3] and their features."""
        chosen_BG = furthest_points(xyz_BP3, xyz_BP3.shape[1] // 2, start_B=start_B)
        centre_BG3, own_BGC = gather_points(xyz_BP3, chosen_BG), gather_points(feature_BPC, chosen_BG)
        index_BGK = ball_query(centre_BG3, xyz_BP3, self.radius, self.neighbours)
        away_BGK3 = (gather_points(xyz_BP3, index_BGK) - centre_BG3[:, :, None]) / self.radius
        group_BGKF = torch.cat([away_BGK3, gather_points(feature_BPC, index_BGK)], -1)
        pooled_BCG = self.mlp(group_BGKF.permute(0, 3, 1, 2)).amax(-1)
        return centre_BG3, (pooled_BCG + self.shortcut(own_BGC.transpose(1, 2))).relu().transpose(1, 2)


class PointNeXt(nn.Module):
    """PointNeXt encoder of point clouds to [B, D]: levels of residual set abstraction, max pooling over all points,
    a head of two layers.

    Points are xyz with y up; the height above the lowest point is a fourth feature, as released.
    """

    def __init__(self, settings: PointNeXtSettings) -> None:
        super().__init__()
        self.settings, self.out_width = settings, settings.head[-1]
        widths = [settings.width * 2**k for k in range(settings.levels + 1)]
        radii = [settings.radius * settings.growth**k for k in range(settings.levels)]
        self.stem = nn.Conv1d(4, settings.width, 1)
        self.levels = nn.ModuleList(
            ResidualSetAbstraction(a, b, radius, settings.neighbours)
            for (a, b), radius in zip(pairwise(widths), radii, strict=True)
        )
        self.whole = PointMLP((widths[-1] + 3, widths[-1], widths[-1]), last_relu=True)
        self.head = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU(), nn.Dropout(settings.dropout))
            for a, b in pairwise((widths[-1], *settings.head))
        )

    def forward(self, point_BP3: Tensor, start_B: Tensor | None = None) -> Tensor:
        """Return vectors [B, D]. `start_B`: first point of the first furthest-point sampling; None is point 0, as released."""
        least = self.settings.neighbours * 2**self.settings.levels
        if point_BP3.ndim != 3 or point_BP3.shape[-1] != 3 or point_BP3.shape[1] < least:
            raise ShapeError(f"points are {list(point_BP3.shape)} (expected [clouds, {least} points or more, 3])")
        height_BP1 = point_BP3[..., 1:2] - point_BP3[..., 1:2].amin(1, keepdim=True)
        xyz_BP3, feature_BPC = point_BP3, self.stem(torch.cat([point_BP3, height_BP1], -1).transpose(1, 2)).transpose(1, 2)
        for number, level in enumerate(self.levels):
            xyz_BP3, feature_BPC = level(xyz_BP3, feature_BPC, start_B if number == 0 else None)
        whole_BF1P = torch.cat([xyz_BP3, feature_BPC], -1).transpose(1, 2)[:, :, None]
        vector_BD: Tensor = self.whole(whole_BF1P).amax(-1)[..., 0]
        for layer in self.head:
            vector_BD = layer(vector_BD)
        return vector_BD
