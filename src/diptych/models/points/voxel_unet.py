"""U-Net of sparse convolutions over voxels (MinkowskiUNet: Choy et al., 2019, 1904.08755) in plain PyTorch.

Letters: B clouds, P points, F values per point, N voxels of all clouds, G seeds, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.points.pointnet2 import PointLevel
from diptych.models.points.sparse_convolution import (
    SparseConv,
    SparseTransposedConv,
    VoxelHalving,
    VoxelLevel,
    halved,
    trilinear,
    voxel_level,
)


@dataclass(frozen=True)
class VoxelUNetSettings:
    """Sizes of a `VoxelUNet`; the defaults are MinkUNet18A's.

    voxel        edge of the finest voxels, in the unit of the data
    voxel_stem   channels of the finest level
    voxel_down   channels of each level below it, whose voxels are twice as large as those above
    voxel_up     channels of the decoder levels, the coarsest first; the same number of levels
    voxel_blocks  residual blocks of two convolutions on each level
    voxel_seeds  coarsest voxels per cloud used in a contrast, evenly spaced; if there are fewer, some are repeated
    """

    voxel: float = 0.05
    voxel_stem: int = 32
    voxel_down: tuple[int, ...] = (32, 64, 128, 256)
    voxel_up: tuple[int, ...] = (128, 128, 96, 96)
    voxel_blocks: int = 2
    voxel_seeds: int = 256

    def __post_init__(self) -> None:
        if len(self.voxel_down) != len(self.voxel_up) or not self.voxel_down:
            raise ConfigError(f"{len(self.voxel_down)} levels down, {len(self.voxel_up)} up (expected as many, one or more)")
        if self.voxel <= 0 or self.voxel_seeds < 1 or self.voxel_blocks < 1:
            raise ConfigError(
                f"voxel {self.voxel:g}, voxel_seeds {self.voxel_seeds}, voxel_blocks {self.voxel_blocks} (expected above 0)"
            )

    @property
    def seed_width(self) -> int:
        """Channels of the coarsest level."""
        return self.voxel_down[-1]

    @property
    def out_width(self) -> int:
        """Channels of the output points."""
        return self.voxel_up[-1]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**{**plain, **{name: tuple(plain[name]) for name in ("voxel_down", "voxel_up")}})


@dataclass(frozen=True, slots=True)
class VoxelPyramid:
    """Voxel levels from the finest on, their features after the encoder, the mappings between them, and the points' positions.

    feature_NC  of each level; coarsest_1NC: that of the last
    at_P3, cloud_P  position of each point of all clouds in units of the finest voxels, and its cloud
    index_P     coarsest voxel of each point
    xyz_BP3     the points as given
    """

    levels: list[VoxelLevel]
    feature_NC: list[Tensor]
    ways: list[VoxelHalving]
    at_P3: Tensor
    cloud_P: Tensor
    index_P: Tensor
    xyz_BP3: Tensor


class ResidualBlock(nn.Module):
    """Residual block of two submanifold convolutions with batch norm; a 1x1x1 convolution adapts the width of the shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv_1, self.norm_1 = SparseConv(27, channels, out), nn.BatchNorm1d(out)
        self.conv_2, self.norm_2 = SparseConv(27, out, out), nn.BatchNorm1d(out)
        narrow = nn.Sequential(nn.Linear(channels, out, bias=False), nn.BatchNorm1d(out))
        self.skip = nn.Identity() if channels == out else narrow

    def forward(self, x_NC: Tensor, table_NK: Tensor) -> Tensor:
        y_NC = self.norm_1(self.conv_1(x_NC, table_NK)).relu()
        out_NC: Tensor = (self.norm_2(self.conv_2(y_NC, table_NK)) + self.skip(x_NC)).relu()
        return out_NC


class VoxelUNet(nn.Module):
    """Encoder-decoder over voxels, with points as input and output.

    The input of a voxel is the mean of its points' values (xyz only determine its position); a point interpolates the eight
    voxels around it. The host waits for the number of voxels of each level.

    features  values per point in addition to xyz; without any the input is a constant 1
    """

    def __init__(self, settings: VoxelUNetSettings, features: int = 3) -> None:
        super().__init__()
        self.settings, self.features = settings, features
        self.stem, self.stem_norm = SparseConv(125, max(1, features), settings.voxel_stem), nn.BatchNorm1d(settings.voxel_stem)
        widths = [settings.voxel_stem, *settings.voxel_down]
        self.down, self.down_norms, self.down_blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for before, width in pairwise(widths):
            self.down.append(SparseConv(8, before, before))
            self.down_norms.append(nn.BatchNorm1d(before))
            self.down_blocks.append(self._blocks(before, width))
        self.up, self.up_norms, self.up_blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before = widths[-1]
        for width, finer in zip(settings.voxel_up, reversed(widths[:-1]), strict=True):
            self.up.append(SparseTransposedConv(before, width))
            self.up_norms.append(nn.BatchNorm1d(width))
            self.up_blocks.append(self._blocks(width + finer, width))
            before = width

    def _blocks(self, channels: int, out: int) -> nn.ModuleList:
        return nn.ModuleList(ResidualBlock(channels if n == 0 else out, out) for n in range(self.settings.voxel_blocks))

    def encode(self, point_BPF: Tensor) -> VoxelPyramid:
        """Return the features of all levels. Raises ShapeError for points of another width."""
        if point_BPF.ndim != 3 or point_BPF.shape[2] != 3 + self.features:
            raise ShapeError(f"points are {list(point_BPF.shape)} (expected [clouds, points, {3 + self.features}])")
        clouds, points, _ = point_BPF.shape
        xyz_BP3 = point_BPF[..., :3]
        scaled_BP3 = xyz_BP3 / self.settings.voxel
        at_P3 = (scaled_BP3 - scaled_BP3.amin(1, keepdim=True).floor()).flatten(0, 1)
        cloud_P = torch.arange(clouds, device=at_P3.device).repeat_interleave(points)
        level, index_P = voxel_level(torch.cat([cloud_P[:, None], at_P3.floor().to(torch.int64)], 1))
        value_PF = point_BPF[..., 3:].flatten(0, 1) if self.features else torch.ones_like(at_P3[:, :1])
        x_NC = _voxel_means(value_PF, index_P, level.key_N.shape[0])
        x_NC = self.stem_norm(self.stem(x_NC, level.neighbours(5))).relu()
        levels, ways, features = [level], list[VoxelHalving](), [x_NC]
        for conv, norm, blocks in zip(self.down, self.down_norms, self.down_blocks, strict=True):
            level, way = halved(level)
            index_P = way.parent_N[index_P]
            x_NC = norm(conv(x_NC, way.child_M8)).relu()
            table_NK = level.neighbours(3)
            for block in blocks:  # type: ignore[attr-defined]
                x_NC = block(x_NC, table_NK)
            levels.append(level)
            ways.append(way)
            features.append(x_NC)
        return VoxelPyramid(levels, features, ways, at_P3, cloud_P, index_P, xyz_BP3)

    def coarsest(self, pyramid: VoxelPyramid) -> Tensor:
        """Return the features of the coarsest voxels of all clouds, [1, N, C]."""
        return pyramid.feature_NC[-1][None]

    def decode(self, pyramid: VoxelPyramid, coarsest_1NC: Tensor | None = None) -> PointLevel:
        """Return the features of the points; `coarsest_1NC` replaces the output of `coarsest`."""
        x_NC = pyramid.feature_NC[-1] if coarsest_1NC is None else coarsest_1NC[0]
        number = len(self.up)
        for conv, norm, blocks in zip(self.up, self.up_norms, self.up_blocks, strict=True):
            number -= 1
            x_NC = norm(conv(x_NC, pyramid.ways[number])).relu()
            x_NC = torch.cat([x_NC, pyramid.feature_NC[number]], 1)
            table_NK = pyramid.levels[number].neighbours(3)
            for block in blocks:  # type: ignore[attr-defined]
                x_NC = block(x_NC, table_NK)
        clouds, points, _ = pyramid.xyz_BP3.shape
        feature_BPC = trilinear(x_NC, pyramid.levels[0], pyramid.at_P3, pyramid.cloud_P).view(clouds, points, -1)
        return PointLevel(pyramid.xyz_BP3, feature_BPC, torch.arange(points, device=x_NC.device).expand(clouds, -1))

    def seeds(self, pyramid: VoxelPyramid, x_1ND: Tensor) -> PointLevel:
        """Return `voxel_seeds` coarsest voxels of each cloud with `x_1ND` as values;
        each is at the position of its first point.
        """
        clouds, points, _ = pyramid.xyz_BP3.shape
        cloud_N = pyramid.levels[-1].place_N4[:, 0]
        count_B = torch.zeros(clouds, dtype=torch.int64, device=cloud_N.device).index_add(0, cloud_N, torch.ones_like(cloud_N))
        number_G = torch.arange(self.settings.voxel_seeds, device=cloud_N.device)
        chosen_BG = (count_B.cumsum(0) - count_B)[:, None] + number_G * count_B[:, None] // self.settings.voxel_seeds
        place_P = torch.arange(points, device=cloud_N.device).repeat(clouds)
        first_N = torch.full_like(cloud_N, points).scatter_reduce(0, pyramid.index_P, place_P, "amin")
        index_BG = first_N[chosen_BG]
        xyz_BG3 = pyramid.xyz_BP3.gather(1, index_BG[..., None].expand(-1, -1, 3))
        return PointLevel(xyz_BG3, x_1ND[0][chosen_BG], index_BG)

    def forward(self, point_BPF: Tensor) -> Tensor:
        """Return features [B, P, C] of the points."""
        feature_BPC = self.decode(self.encode(point_BPF)).feature_BGC
        assert feature_BPC is not None
        return feature_BPC


def _voxel_means(value_PF: Tensor, index_P: Tensor, count: int) -> Tensor:
    """Return the mean values [N, F] of the points of each voxel."""
    total_NF = value_PF.new_zeros(count, value_PF.shape[1]).index_add(0, index_P, value_PF)
    points_N = value_PF.new_zeros(count).index_add(0, index_P, torch.ones_like(value_PF[:, 0]))
    return total_NF / points_N[:, None]
