"""PointNet++ (1706.02413) with single-scale grouping: set abstraction, then feature propagation, as in VoteNet and ScanRefer.

Letters: B clouds, P points, F values per point, G centres, K neighbours, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.points.sampling import ball_query, furthest_points, gather_points, three_nearest_mean


@dataclass(frozen=True)
class PointNet2Settings:
    """Sizes of a `PointNet2`; the defaults are VoteNet's, which ScanRefer shares, with all levels interpolated.

    features    values per point in addition to xyz
    centres     points of each level, by furthest-point sampling
    radii, neighbours  of the balls around them, in the unit of the data
    down        widths of the layers of each level
    up          widths of the feature propagation layers, the coarsest level first; with one per level the output is at the points
    skip        of the sampling, see `furthest_points`: 1e-3 as the released kernel has it
    """

    features: int = 3
    centres: tuple[int, ...] = (2048, 1024, 512, 256)
    radii: tuple[float, ...] = (0.2, 0.4, 0.8, 1.2)
    neighbours: tuple[int, ...] = (64, 32, 16, 16)
    down: tuple[tuple[int, ...], ...] = ((64, 64, 128), (128, 128, 256), (128, 128, 256), (128, 128, 256))
    up: tuple[tuple[int, ...], ...] = ((256, 256), (256, 256), (256, 128), (128, 128))
    skip: float = 0.0

    def __post_init__(self) -> None:
        levels = {len(self.centres), len(self.radii), len(self.neighbours), len(self.down)}
        if len(levels) != 1 or not 1 <= len(self.up) <= len(self.centres) or self.features < 0:
            raise ConfigError(
                f"{len(self.centres)} centres, {len(self.radii)} radii, {len(self.neighbours)} neighbours, {len(self.down)} widths down "
                f"and {len(self.up)} up (expected equal numbers, and at most as many up)"
            )
        if list(self.centres) != sorted(self.centres, reverse=True) or min(self.neighbours) < 1 or min(self.radii) <= 0:
            raise ConfigError(
                f"centres {self.centres}, neighbours {self.neighbours}, radii {self.radii} (expected falling, and above 0)"
            )

    @property
    def seed_width(self) -> int:
        """Channels of the coarsest level."""
        return self.down[-1][-1]

    @property
    def out_width(self) -> int:
        return self.up[-1][-1]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        nested = {name: tuple(map(tuple, plain[name])) for name in ("down", "up")}
        flat = {name: tuple(plain[name]) for name in ("centres", "radii", "neighbours")}
        return cls(**{**plain, **flat, **nested})


@dataclass(frozen=True, slots=True)
class PointLevel:
    """xyz_BG3 of a level, its features (None if points have none), and the index of each among the input points."""

    xyz_BG3: Tensor
    feature_BGC: Tensor | None
    index_BG: Tensor


class SharedMLP(nn.Module):
    """MLP on [B, C, G, K]: layers of 1x1 convolution without bias, batch norm and ReLU."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]

    def forward(self, x_BCGK: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x_BCGK = norm(conv(x_BCGK)).relu()
        return x_BCGK


class SetAbstraction(nn.Module):
    """Set abstraction: a shared MLP on the points in balls around sampled centres, then max pooling.

    xyz is relative to the centre and divided by the radius.
    """

    def __init__(self, features: int, centres: int, radius: float, neighbours: int, widths: Sequence[int], skip: float) -> None:
        super().__init__()
        self.centres, self.radius, self.neighbours, self.skip = centres, radius, neighbours, skip
        self.mlp = SharedMLP((features + 3, *widths))

    def forward(self, level: PointLevel, start_B: Tensor | None = None) -> PointLevel:
        xyz_BP3 = level.xyz_BG3
        chosen_BG = furthest_points(xyz_BP3, self.centres, start_B=start_B, skip=self.skip)
        centre_BG3 = gather_points(xyz_BP3, chosen_BG)
        index_BGK = ball_query(centre_BG3, xyz_BP3, self.radius, self.neighbours)
        group_BGKF = (gather_points(xyz_BP3, index_BGK) - centre_BG3[:, :, None]) / self.radius
        if level.feature_BGC is not None:
            group_BGKF = torch.cat([group_BGKF, gather_points(level.feature_BGC, index_BGK)], -1)
        feature_BGC = self.mlp(group_BGKF.permute(0, 3, 1, 2)).amax(-1).transpose(1, 2)
        return PointLevel(centre_BG3, feature_BGC, level.index_BG.gather(1, chosen_BG))


class FeaturePropagation(nn.Module):
    """Feature propagation: interpolates a coarse level at the points of a finer one, concatenates the finer features,
    and applies an MLP.

    Interpolation weights the three nearest points by inverse distance.
    """

    def __init__(self, coarse: int, fine: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.mlp = SharedMLP((coarse + fine, *widths))

    def forward(self, fine: PointLevel, coarse: PointLevel) -> PointLevel:
        assert coarse.feature_BGC is not None
        x_BPC = three_nearest_mean(fine.xyz_BG3, coarse.xyz_BG3, coarse.feature_BGC)
        if fine.feature_BGC is not None:
            x_BPC = torch.cat([x_BPC, fine.feature_BGC], -1)
        feature_BPC = self.mlp(x_BPC.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        return PointLevel(fine.xyz_BG3, feature_BPC, fine.index_BG)


class PointNet2(nn.Module):
    """Encoder-decoder of points: `encode` returns all levels,
    `decode` interpolates from the coarsest to the finest that `up` reaches.
    """

    def __init__(self, settings: PointNet2Settings) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.features, *(layer[-1] for layer in settings.down)]
        self.down = nn.ModuleList(
            SetAbstraction(widths[k], settings.centres[k], settings.radii[k], settings.neighbours[k], layer, settings.skip)
            for k, layer in enumerate(settings.down)
        )
        coarse, levels = widths[-1], len(settings.down)
        self.up = nn.ModuleList()
        for k, layer in enumerate(settings.up):
            self.up.append(FeaturePropagation(coarse, widths[levels - 1 - k], layer))
            coarse = layer[-1]

    def encode(self, point_BPF: Tensor, start_B: Tensor | None = None) -> list[PointLevel]:
        """Return all levels, from the points to the coarsest. `start_B`: first point that the first level samples;
        None is point 0.
        """
        width = 3 + self.settings.features
        if point_BPF.ndim != 3 or point_BPF.shape[-1] != width or point_BPF.shape[1] < self.settings.centres[0]:
            raise ShapeError(
                f"points are {list(point_BPF.shape)} (expected [clouds, {self.settings.centres[0]} points or more, {width}])"
            )
        own = point_BPF[..., 3:] if self.settings.features else None
        index_BP = torch.arange(point_BPF.shape[1], device=point_BPF.device).expand(len(point_BPF), -1)
        levels = [PointLevel(point_BPF[..., :3], own, index_BP)]
        for number, layer in enumerate(self.down):
            levels.append(layer(levels[-1], start_B if number == 0 else None))
        return levels

    def coarsest(self, levels: Sequence[PointLevel]) -> Tensor:
        """Features of the coarsest level, [B, G, C]."""
        feature_BGC = levels[-1].feature_BGC
        assert feature_BGC is not None
        return feature_BGC

    def seeds(self, levels: Sequence[PointLevel], x_BGD: Tensor) -> PointLevel:
        """Return the coarsest level with `x_BGD` as its values."""
        return PointLevel(levels[-1].xyz_BG3, x_BGD, levels[-1].index_BG)

    def decode(self, levels: Sequence[PointLevel], seed_BGC: Tensor | None = None) -> PointLevel:
        """Return the finest decoded level; `seed_BGC` replaces the features of the coarsest level."""
        last = levels[-1]
        coarse = last if seed_BGC is None else PointLevel(last.xyz_BG3, seed_BGC, last.index_BG)
        for fine, layer in zip(reversed(levels[:-1]), self.up, strict=False):
            coarse = layer(fine, coarse)
        return coarse
