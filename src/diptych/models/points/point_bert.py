"""Point-BERT (2111.14819), a transformer over groups of points, as ULIP uses it.

Letters: B clouds, P points, F values per point, G groups, K points per group, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.points.sampling import furthest_points, gather_points, nearest_points


@dataclass(frozen=True)
class PointBERTSettings:
    """Sizes of a `PointBERT`; the defaults are ULIP's.

    in_channels values per point: 3, or 6 with a colour
    groups, group_size  number of centres, chosen by furthest-point sampling, and of nearest points of each
    encoder     width of a group's vector before the transformer
    token_width, layers, heads  of the transformer
    drop_path   stochastic depth of the last block; it rises linearly from 0 at the first
    skip        of the sampling, see `furthest_points`: 1e-3 as the released models have it
    """

    in_channels: int = 3
    groups: int = 512
    group_size: int = 32
    encoder: int = 256
    token_width: int = 384
    layers: int = 12
    heads: int = 6
    drop_path: float = 0.1
    skip: float = 0.0
    projection_bias: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.in_channels not in (3, 6) or min(self.groups, self.group_size, self.encoder, self.layers) < 1:
            raise ConfigError(
                f"point tower with {self.in_channels} channels, {self.groups} groups of {self.group_size}, {self.layers} layers "
                "(expected 3 or 6 channels, and 1 or more of the others)"
            )
        if self.token_width % self.heads:
            raise ConfigError(f"token_width {self.token_width} in {self.heads} heads (expected heads that divide the width)")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


class GroupEncoder(nn.Module):
    """Small PointNet that encodes each group of points as one vector; the order of the points does not matter."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.Conv1d(channels, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, 256, 1))
        self.joint = nn.Sequential(nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(), nn.Conv1d(512, width, 1))

    def forward(self, group_BGKF: Tensor) -> Tensor:
        """[B, G, width]."""
        local_NDK = self.local(group_BGKF.flatten(0, 1).transpose(1, 2))
        whole_ND1 = local_NDK.amax(2, keepdim=True)
        joint_NDK = self.joint(torch.cat([whole_ND1.expand_as(local_NDK), local_NDK], 1))
        vector_BGD: Tensor = joint_NDK.amax(2).unflatten(0, group_BGKF.shape[:2])
        return vector_BGD


class PointBERT(nn.Module):
    """Transformer over groups of points; a cloud's vector is its class token concatenated with the maximum over its groups.

    The output is [B, 2 token_width]. Positions (an MLP of the centres; learned for the class token) are added to the tokens
    before every block. xyz of a group are relative to its centre; colours are unchanged.
    """

    def __init__(self, settings: PointBERTSettings) -> None:
        super().__init__()
        self.settings, self.out_width = settings, 2 * settings.token_width
        self.group_encoder = GroupEncoder(settings.in_channels, settings.encoder)
        self.reduce = nn.Linear(settings.encoder, settings.token_width)
        self.class_token_11D = nn.Parameter(torch.zeros(1, 1, settings.token_width))
        self.class_position_11D = nn.Parameter(torch.randn(1, 1, settings.token_width))
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, settings.token_width))
        last, parts = max(1, settings.layers - 1), {"qkv_bias": False, "act_layer": nn.GELU, "norm_layer": nn.LayerNorm}
        self.blocks = nn.ModuleList(
            Block(settings.token_width, settings.heads, drop_path=settings.drop_path * layer / last, **parts)
            for layer in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.token_width)

    def group(self, point_BPF: Tensor, start_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Groups [B, G, K, F], xyz relative to their centres, and the centres [B, G, 3]."""
        settings = self.settings
        return relative_groups(point_BPF, settings.groups, settings.group_size, start_B, settings.skip)

    def forward(self, point_BPF: Tensor, start_B: Tensor | None = None) -> Tensor:
        """Return vectors [B, 2 token_width]. `start_B`: index of the first point of furthest-point sampling; None is point 0,
        as released.
        """
        if point_BPF.ndim != 3 or point_BPF.shape[-1] != self.settings.in_channels:
            raise ShapeError(f"points are {list(point_BPF.shape)} (expected [clouds, points, {self.settings.in_channels}])")
        group_BGKF, centre_BG3 = self.group(point_BPF, start_B)
        token_BGD = self.reduce(self.group_encoder(group_BGKF))
        clouds = len(point_BPF)
        x_BLD = torch.cat([self.class_token_11D.expand(clouds, -1, -1), token_BGD], 1)
        position_BLD = torch.cat([self.class_position_11D.expand(clouds, -1, -1), self.position(centre_BG3)], 1)
        for block in self.blocks:
            x_BLD = block(x_BLD + position_BLD)
        x_BLD = self.norm(x_BLD)
        return torch.cat([x_BLD[:, 0], x_BLD[:, 1:].amax(1)], -1)


def relative_groups(
    point_BPF: Tensor, groups: int, group_size: int, start_B: Tensor | None = None, skip: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return groups [B, G, K, F] of nearest points, xyz relative to their centres and other values unchanged,
    and the centres [B, G, 3].
    """
    xyz_BP3 = point_BPF[..., :3]
    centre_BG3 = gather_points(xyz_BP3, furthest_points(xyz_BP3, groups, start_B=start_B, skip=skip))
    group_BGKF = gather_points(point_BPF, nearest_points(centre_BG3, xyz_BP3, group_size))
    return torch.cat([group_BGKF[..., :3] - centre_BG3[:, :, None], group_BGKF[..., 3:]], -1), centre_BG3
