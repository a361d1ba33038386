"""DenseCLIP as a detector (2112.01518): the score map stands beside the features of a pyramid whose every place says a class and a box.

Letters: N images, B batch, A anchors, K classes, C channel, H W, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.models.denseclip.dense_segmenter import LanguageGuide
from diptych.models.denseclip.semantic_fpn import FeaturePyramidNeck
from diptych.models.detection.anchor_boxes import AnchorShape
from diptych.models.detection.feature_pyramid import two_columns
from diptych.models.towers.dense_tap import STRIDES, DenseMaps, DenseTap

FIRST = 1
"""RetinaNet reads maps from stride 8 on."""


@dataclass(frozen=True, slots=True)
class Detected:
    """logit_NAK  of every class at every anchor, map by map
    change_NA4  of the anchor to the box
    score_NKHW  cosines of places with class names over the temperature, at the stride of the places; None without language
    anchor_A4   xyxy in pixels of the padded images, the same for all
    counts      anchors of each map
    """

    logit_NAK: Rows[Tensor]
    change_NA4: Rows[Tensor]
    score_NKHW: Rows[Tensor] | None
    anchor_A4: Tensor
    counts: tuple[int, ...]


class CoarserMaps(nn.Module):
    """More maps behind the last one of a backbone: 3x3 convolutions of stride 2, the first on that map as it is, and no ReLU between
    (mmdetection's `on_input`; torchvision has the ReLU)."""

    def __init__(self, channels: int, width: int, count: int) -> None:
        super().__init__()
        sizes = [channels, *[width] * count]
        self.steps = nn.ModuleList(nn.Conv2d(sizes[n], width, 3, stride=2, padding=1) for n in range(count))
        for step in self.steps:
            assert isinstance(step, nn.Conv2d)
            assert step.bias is not None
            nn.init.xavier_uniform_(step.weight)
            nn.init.zeros_(step.bias)

    def forward(self, map_BCHW: Tensor) -> list[Tensor]:
        maps = [map_BCHW]
        for step in self.steps:
            maps.append(step(two_columns(maps[-1])))
        return maps[1:]


class DenseDetector(nn.Module):
    """Images to `Detected`. The score map is divided by the temperature both beside the features and for its own loss, unlike the
    segmenter's."""

    def __init__(
        self,
        tap: DenseTap,
        guide: LanguageGuide | None,
        classes: int,
        anchors: AnchorShape,
        *,
        width: int = 256,
        tau: float = 0.07,
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ConfigError(f"tau is {tau} (expected a temperature above 0)")
        self.tap, self.guide, self.anchors, self.tau = tap, guide, anchors, tau
        channels = [count + (classes if guide and level == tap.level else 0) for level, count in enumerate(tap.channels)]
        self.neck = FeaturePyramidNeck(channels[FIRST:], width)
        self.coarser = CoarserMaps(channels[-1], width, anchors.extra)
        self.head = RetinaNetHead(width, anchors.per_place, classes)
        self.strides = (*STRIDES[FIRST:], *(STRIDES[-1] * 2 ** (n + 1) for n in range(anchors.extra)))

    def forward(self, image_BCHW: Tensor) -> Detected:
        seen: DenseMaps = self.tap(image_BCHW)
        maps, score_BKHW = list(seen.maps), None
        if self.guide is not None:
            score_BKHW = self.guide(seen) / self.tau
            maps[self.tap.level] = torch.cat([maps[self.tap.level], score_BKHW], dim=1)
        levels: Sequence[Tensor] = [*self.neck(maps[FIRST:]), *self.coarser(maps[-1])]
        said = self.head(list(levels))
        anchors = self.anchors.boxes(levels, self.strides)
        counts = tuple(len(anchor_A4) for anchor_A4 in anchors)
        return Detected(said["cls_logits"], said["bbox_regression"], score_BKHW, torch.cat(anchors), counts)
