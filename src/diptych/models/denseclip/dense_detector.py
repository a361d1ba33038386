"""DenseCLIP as a detector (2112.01518): a score map beside pyramid features that predict a class and a box per position.

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
from diptych.models.detection.anchor_boxes import AnchorConfig, top_boxes
from diptych.models.detection.feature_pyramid import pad_single_column
from diptych.models.towers.dense_tap import STRIDES, DenseMaps, DenseTap

FIRST = 1
"""RetinaNet reads maps from stride 8 on."""


@dataclass(frozen=True, slots=True)
class DenseClipDetectorOutput:
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


@dataclass(frozen=True, slots=True)
class BoxDetections:
    """Boxes of one image, highest score first; xyxy in pixels of the original image.

    label_N     position in the classes
    share_NHW   probability of each place of a box to belong to the thing; None from a detector without masks
    solid       probability threshold of the mask
    """

    box_N4: Tensor
    label_N: Tensor
    score_N: Tensor
    share_NHW: Tensor | None = None
    solid: float = 0.5


class ExtraPyramidLevels(nn.Module):
    """More maps after the last one of a backbone: 3x3 convolutions of stride 2, the first on that map as it is, and no ReLU between
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
            maps.append(step(pad_single_column(maps[-1])))
        return maps[1:]


def guided_channels(tap: DenseTap, guide: LanguageGuide | None, classes: int) -> list[int]:
    """Channels of the four maps with the score map beside one of them."""
    return [count + (classes if guide and level == tap.level else 0) for level, count in enumerate(tap.channels)]


def guided_maps(tap: DenseTap, guide: LanguageGuide | None, tau: float, image_BCHW: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """The four maps, and the score map that stands beside one of them. It is divided by the temperature both there and for its own
    loss, unlike the segmenter's."""
    dense: DenseMaps = tap(image_BCHW)
    maps, score_BKHW = list(dense.maps), None
    if guide is not None:
        score_BKHW = guide(dense) / tau
        maps[tap.level] = torch.cat([maps[tap.level], score_BKHW], dim=1)
    return maps, score_BKHW


class DenseClipDetector(nn.Module):
    """Images to `DenseClipDetectorOutput`."""

    def __init__(
        self,
        tap: DenseTap,
        guide: LanguageGuide | None,
        classes: int,
        anchors: AnchorConfig,
        *,
        width: int = 256,
        tau: float = 0.07,
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ConfigError(f"tau is {tau} (expected a temperature above 0)")
        self.tap, self.guide, self.anchors, self.tau = tap, guide, anchors, tau
        channels = guided_channels(tap, guide, classes)
        self.neck = FeaturePyramidNeck(channels[FIRST:], width)
        self.coarser = ExtraPyramidLevels(channels[-1], width, anchors.extra)
        self.head = RetinaNetHead(width, anchors.per_place, classes)
        self.strides = (*STRIDES[FIRST:], *(STRIDES[-1] * 2 ** (n + 1) for n in range(anchors.extra)))

    def forward(self, image_BCHW: Tensor) -> DenseClipDetectorOutput:
        maps, score_BKHW = guided_maps(self.tap, self.guide, self.tau, image_BCHW)
        levels: Sequence[Tensor] = [*self.neck(maps[FIRST:]), *self.coarser(maps[-1])]
        outputs = self.head(list(levels))
        anchors = self.anchors.boxes(levels, self.strides)
        counts = tuple(len(anchor_A4) for anchor_A4 in anchors)
        return DenseClipDetectorOutput(outputs["cls_logits"], outputs["bbox_regression"], score_BKHW, torch.cat(anchors), counts)

    def detect(self, image_BCHW: Tensor, size: tuple[int, int], *, top: int, class_mask_K: Tensor) -> BoxDetections:
        """Final detections of one image, of which `size` is not padding."""
        output = self(image_BCHW)
        logits, changes, anchors = (
            row.split(output.counts) for row in (output.logit_NAK[0], output.change_NA4[0], output.anchor_A4)
        )
        return BoxDetections(*top_boxes(logits, changes, anchors, size, self.anchors, top=top, class_mask_K=class_mask_K))
