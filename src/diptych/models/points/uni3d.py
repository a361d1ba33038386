"""Uni3D's point tower (2310.06773): the blocks of an image transformer of timm on groups of points.

Letters: B clouds, P points, F values per point, G groups, K points per group, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import timm
import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.points.point_bert import GroupEncoder, relative_groups


@dataclass(frozen=True)
class Uni3DSettings:
    """Sizes of a `Uni3DTower`; the defaults are those of the released base model.

    model       timm model whose blocks and last norm are used: an EVA model, as released
    groups, group_size  number of centres, chosen by furthest-point sampling, and of nearest points of each
    encoder     width of a group's vector before the transformer
    skip        of the sampling, see `furthest_points`: 1e-3 as the released models have it
    """

    model: str = "eva02_base_patch14_448"
    groups: int = 512
    group_size: int = 64
    encoder: int = 512
    skip: float = 1e-3
    in_channels: ClassVar[int] = 6
    projection_bias: ClassVar[bool] = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


class Uni3DTower(nn.Module):
    """Transformer over groups of points; a cloud's vector is its class token after the last norm, [B, D].

    Unlike in `PointBERT`, positions are added once, before the first block, and there is no maximum over groups. The rotary
    positions, patch embedding, position table and class token of the image model are not used, as released.
    """

    def __init__(self, settings: Uni3DSettings) -> None:
        super().__init__()
        if not timm.is_model(settings.model):
            raise ConfigError(f"timm has no model {settings.model!r} (expected such as eva02_base_patch14_448)")
        net: Any = timm.create_model(settings.model, num_classes=0)
        if not all(hasattr(net, part) for part in ("blocks", "norm", "fc_norm", "embed_dim")):
            raise ConfigError(f"model {settings.model!r} of timm is not a transformer of the EVA family (expected one)")
        self.settings, self.out_width = settings, int(net.embed_dim)
        self.group_encoder = GroupEncoder(settings.in_channels, settings.encoder)
        self.reduce = nn.Linear(settings.encoder, self.out_width)
        self.class_token_11D = nn.Parameter(torch.zeros(1, 1, self.out_width))
        self.class_position_11D = nn.Parameter(torch.randn(1, 1, self.out_width))
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, self.out_width))
        self.blocks, self.norm, self.fc_norm = net.blocks, net.norm, net.fc_norm

    def forward(self, point_BPF: Tensor, start_B: Tensor | None = None) -> Tensor:
        """Return vectors [B, D]. `start_B`: first point of furthest-point sampling; None is point 0, as released."""
        if point_BPF.ndim != 3 or point_BPF.shape[-1] != self.settings.in_channels:
            raise ShapeError(f"points are {list(point_BPF.shape)} (expected [clouds, points, {self.settings.in_channels}])")
        settings, clouds = self.settings, len(point_BPF)
        group_BGKF, centre_BG3 = relative_groups(point_BPF, settings.groups, settings.group_size, start_B, settings.skip)
        token_BGD = self.reduce(self.group_encoder(group_BGKF))
        x_BLD = torch.cat([self.class_token_11D.expand(clouds, -1, -1), token_BGD], 1)
        x_BLD = x_BLD + torch.cat([self.class_position_11D.expand(clouds, -1, -1), self.position(centre_BG3)], 1)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        vector_BD: Tensor = self.fc_norm(self.norm(x_BLD[:, 0]))
        return vector_BD
