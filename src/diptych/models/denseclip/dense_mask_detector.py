"""DenseCLIP as Mask R-CNN (2112.01518): the score map stands beside the last map before the pyramid, all else is the detector's.

Letters: N images, B batch, A anchors, S drawn regions of all images, P those with a box, K classes, C classes and the background, H W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.models.denseclip.dense_detector import BoxDetections, guided_channels, guided_maps
from diptych.models.denseclip.dense_segmenter import LanguageGuide
from diptych.models.denseclip.semantic_fpn import FeaturePyramidNeck
from diptych.models.detection.mask_rcnn import MaskRCNN, MaskRCNNConfig, Size
from diptych.models.towers.dense_tap import STRIDES, DenseTap

Choose = Callable[[Sequence[Tensor]], Sequence[tuple[Tensor, Tensor]]]
"""Proposals of each image, [N, 4], to what is learned from: boxes [S, 4], and which true box each of the first P has, int64 [P]."""


@dataclass(frozen=True, slots=True)
class DenseClipMaskOutput:
    """thing_NA     logit of every anchor, map by map
    change_NA4   of the anchor to the box
    score_NKHW   cosines of places with class names over the temperature, at the stride of the places; None without language
    anchor_A4    xyxy in pixels of the padded images, the same for all
    regions      what was chosen of each image, box [S, 4] and place [P]
    logit_SC     of the chosen regions of all images, the background last
    change_SK4   of a region to the box of each class
    mask_PKHW    logits of the masks of the regions that have a box
    """

    thing_NA: Rows[Tensor]
    change_NA4: Rows[Tensor]
    score_NKHW: Rows[Tensor] | None
    anchor_A4: Tensor
    regions: Rows[tuple[tuple[Tensor, Tensor], ...]]
    logit_SC: Tensor
    change_SK4: Tensor
    mask_PKHW: Tensor


class DenseClipMaskDetector(nn.Module):
    """Images to `DenseClipMaskOutput`."""

    def __init__(
        self,
        tap: DenseTap,
        guide: LanguageGuide | None,
        classes: int,
        shape: MaskRCNNConfig,
        *,
        width: int = 256,
        tau: float = 0.07,
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise ConfigError(f"tau is {tau} (expected a temperature above 0)")
        self.tap, self.guide, self.tau = tap, guide, tau
        self.neck = FeaturePyramidNeck(guided_channels(tap, guide, classes), width)
        self.heads = MaskRCNN(shape, width, classes, STRIDES)

    @property
    def shape(self) -> MaskRCNNConfig:
        return self.heads.shape

    def forward(self, image_BCHW: Tensor, sizes: Sequence[Size], choose: Choose) -> DenseClipMaskOutput:
        """`sizes`: height and width of each image without its padding; `choose` selects the proposals to train on."""
        levels, score_BKHW = self._levels(image_BCHW)
        things, changes = self.heads.objectness(levels)
        anchors = self.heads.anchors(levels)
        regions = tuple(choose(self.heads.proposals(things, changes, anchors, sizes)))
        logit_SC, change_SK4 = self.heads.regions(levels, [box_S4 for box_S4, _ in regions])
        mask_PKHW = self.heads.masks(levels, [box_S4[: len(place_P)] for box_S4, place_P in regions])
        return DenseClipMaskOutput(
            torch.cat(things, 1),
            torch.cat(changes, 1),
            score_BKHW,
            torch.cat(anchors),
            regions,
            logit_SC,
            change_SK4,
            mask_PKHW,
        )

    def detect(self, image_BCHW: Tensor, size: Size, *, top: int, class_mask_K: Tensor) -> BoxDetections:
        """Final detections of one image, with masks; `size` is the image without its padding."""
        levels, _ = self._levels(image_BCHW)
        things, changes = self.heads.objectness(levels)
        proposals = self.heads.proposals(things, changes, self.heads.anchors(levels), [size])
        logit_NC, change_NK4 = self.heads.regions(levels, proposals)
        box_N4, label_N, score_N = self.heads.postprocess_detections(
            logit_NC, change_NK4, proposals[0], size, top=top, class_mask_K=class_mask_K
        )
        mask_NKHW = self.heads.masks(levels, [box_N4])
        own_NHW = mask_NKHW[torch.arange(len(label_N), device=label_N.device), label_N]
        return BoxDetections(box_N4, label_N, score_N, own_NHW.float().sigmoid(), self.shape.solid)

    def _levels(self, image_BCHW: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Five maps: those of the pyramid, and every second place of the last."""
        maps, score_BKHW = guided_maps(self.tap, self.guide, self.tau, image_BCHW)
        levels = self.neck(maps)
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)], score_BKHW
