"""Feature maps of several strides for detectors: any pyramid of timm (ResNet, Swin, ...), or a small one of our own.

Letters: B batch, C channel, H W.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError, UnknownName
from diptych.models.detection.padded_swin import pad_before_shift, pad_to_patches


class DetectionBackbone(nn.Module):
    """Images to one map per stride. `strides` in pixels, finest first; `channels` of each map; `spec` builds the backbone again."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    spec: dict[str, Any]


def detection_backbone(name: str, **options: Any) -> DetectionBackbone:
    """conv_tiny (strides 8 and 16), or timm:NAME (strides 8, 16 and 32), with fresh weights.

    Options: conv_tiny widths=(24, 48, 64); timm strides=(8, 16, 32), frozen_norm=False, drop_path=0.0, sizes={}
    """
    if name == "conv_tiny":
        backbone: DetectionBackbone = ConvPyramid(**options)
    elif name.startswith("timm:"):
        backbone = TimmPyramid(name.removeprefix("timm:"), **options)
    else:
        raise UnknownName("detection backbone", name, ("conv_tiny", "timm:NAME"))
    backbone.spec = {"name": name, **options}
    return backbone


class ConvPyramid(DetectionBackbone):
    """Four 3 x 3 convolutions of stride 2 with GroupNorm, maps from the third and fourth. Any image size; nothing depends on the
    batch."""

    strides = (8, 16)

    def __init__(self, *, widths: Sequence[int] = (24, 48, 64)) -> None:
        super().__init__()
        if len(widths) != 3 or any(width % 8 for width in widths):
            raise ConfigError(f"widths of conv_tiny are {tuple(widths)} (expected three multiples of 8)")
        self.channels = (widths[2], widths[2])
        chain = (3, *widths, widths[2])
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, after), nn.ReLU(inplace=True)
            )
            for before, after in itertools.pairwise(chain)
        )
        for step in self.steps:
            nn.init.kaiming_normal_(step[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[index]

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        maps = [image_BCHW]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps[3:]


class TimmPyramid(DetectionBackbone):
    """`model` by timm's name. Transformers without norms after their stages get a LayerNorm for each map, as in published
    detectors. Swin takes images of any size, padded where a patch or a window does not fit (see `padded_swin`).

    frozen_norm  BatchNorm as a fixed scale and shift: what detectors trained from ImageNet weights do; without such weights leave
                 it off
    drop_path    highest rate of stochastic depth (0.5 for Swin-L)
    sizes        other ones than the model's, by timm's names (embed_dim, depths, num_heads, window_size for Swin)
    """

    def __init__(
        self,
        model: str,
        *,
        strides: Sequence[int] = (8, 16, 32),
        frozen_norm: bool = False,
        drop_path: float = 0.0,
        sizes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(model):
            raise UnknownName("timm model", model, timm.list_models(), hint="timm.list_models() lists them")
        self.swin = model.startswith("swin")
        changes: dict[str, Any] = {"strict_img_size": False, "always_partition": True} if self.swin else {}
        changes |= sizes or {}
        if drop_path:
            changes["drop_path_rate"] = drop_path
        probe = timm.create_model(model, features_only=True, pretrained=False, **changes)
        indices = [row for row, stride in enumerate(probe.feature_info.reduction()) if stride in strides]
        if len(indices) != len(strides):
            raise ConfigError(f"timm:{model} has maps of strides {probe.feature_info.reduction()} (expected {list(strides)})")
        net: Any = timm.create_model(model, features_only=True, pretrained=False, out_indices=indices, **changes)
        if self.swin:
            pad_before_shift(net)
            self.patch = int(net.patch_embed.patch_size[0])
        self.net: Any = freeze_batch_norm_2d(net) if frozen_norm else net
        self.strides = tuple(int(stride) for stride in net.feature_info.reduction())
        self.channels = tuple(int(count) for count in net.feature_info.channels())
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in self.channels) if self.swin else None

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        if self.swin:
            image_BCHW = pad_to_patches(image_BCHW, self.patch)
        maps: list[Tensor] = self.net(image_BCHW)
        for row, (map_, channels) in enumerate(zip(maps, self.channels, strict=True)):
            if self.norms is not None:
                last = map_ if map_.shape[-1] == channels else map_.permute(0, 2, 3, 1)
                maps[row] = self.norms[row](last).permute(0, 3, 1, 2)
            elif map_.shape[1] != channels:
                raise ShapeError(f"map {row} must have {channels} channels first, got {list(map_.shape)}")
        return maps
