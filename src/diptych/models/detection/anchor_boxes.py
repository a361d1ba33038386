"""Anchor boxes on a grid, and decoding of an anchor-based detector's output (RetinaNet, 1708.02002).

Letters: A anchors, K classes, N boxes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from diptych.core.errors import ConfigError
from diptych.data.constants import constant

LARGEST = math.log(1000 / 16)
"""Maximum logarithm of the factor by which a side grows or shrinks; larger predictions are clamped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorConfig:
    """Anchor sizes, and thresholds of the boxes that are kept.

    size        sides of a square anchor, in strides of its map (published 4: 32 pixels at stride 8)
    octave      sizes between one map and the next, evenly in the logarithm
    ratios      height by width
    extra       maps beyond the backbone's, each of twice the stride
    candidates  how many of each map go through NMS, the highest-scoring, of what `limits` says: "pairs" of anchor and class (torchvision,
                mmdetection from 2.18 on), or "anchors" by their best class, with all their classes (mmdetection before, as DenseCLIP)
    min_score   probability threshold of the boxes that are kept
    nms         IoU threshold of non-maximum suppression within a class
    """

    size: float = 4.0
    octave: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    extra: int = 2
    candidates: int = 1000
    limits: Literal["pairs", "anchors"] = "pairs"
    min_score: float = 0.05
    nms: float = 0.5

    def __post_init__(self) -> None:
        if self.limits not in ("pairs", "anchors"):
            raise ConfigError(f"limits is {self.limits!r} (expected pairs | anchors)")

    @property
    def per_place(self) -> int:
        """Anchors of a place."""
        return self.octave * len(self.ratios)

    def boxes(self, maps: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
        """[A, 4] of each map: place by place in reading order, around the corner that each begins with; ratios, then sizes."""
        anchors = []
        for map_BCHW, stride in zip(maps, strides, strict=True):
            height, width = map_BCHW.shape[2:]
            side_S = self.size * stride * 2 ** (torch.arange(self.octave, device=map_BCHW.device) / self.octave)
            root_R = constant(self.ratios, device=map_BCHW.device).sqrt()
            half_P2 = torch.stack((side_S / root_R[:, None], side_S * root_R[:, None]), -1).flatten(0, 1) / 2
            y_H, x_W = (torch.arange(count, device=map_BCHW.device) * float(stride) for count in (height, width))
            centre_HW2 = torch.stack((x_W.expand(height, -1), y_H[:, None].expand(-1, width)), -1)
            corner_HWP4 = torch.cat((centre_HW2[:, :, None] - half_P2, centre_HW2[:, :, None] + half_P2), -1)
            anchors.append(corner_HWP4.flatten(0, 2))
        return anchors


def decode_boxes(anchor_A4: Tensor, change_A4: Tensor) -> Tensor:
    """Decode box changes relative to anchors: centres are shifted by fractions of the sides, sides grow by a factor e ** change.

    Growth and shrinkage are both bounded by `LARGEST`, as in mmdetection; torchvision bounds only growth.
    """
    side_A2 = anchor_A4[:, 2:] - anchor_A4[:, :2]
    centre_A2 = anchor_A4[:, :2] + side_A2 / 2 + change_A4[:, :2] * side_A2
    half_A2 = side_A2 * change_A4[:, 2:].clamp(-LARGEST, LARGEST).exp() / 2
    return torch.cat((centre_A2 - half_A2, centre_A2 + half_A2), 1)


def top_boxes(
    logits: Sequence[Tensor],
    changes: Sequence[Tensor],
    anchors: Sequence[Tensor],
    size: tuple[int, int],
    shape: AnchorConfig,
    *,
    top: int = 100,
    class_mask_K: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """box [N, 4], label [N] and score [N] of one image, highest score first; boxes of the same class are filtered by NMS.

    `logits` [A, K], `changes` and `anchors` [A, 4] of each map; `size` is height and width of the picture; with `class_mask_K` only of
    these classes.
    """
    boxes, labels, scores = [], [], []
    for logit_AK, change_A4, anchor_A4 in zip(logits, changes, anchors, strict=True):
        score_AK = logit_AK.sigmoid()
        open_AK = score_AK > shape.min_score
        if class_mask_K is not None:
            open_AK &= class_mask_K
        if shape.limits == "anchors":
            open_AK[score_AK.max(1).values.sort(descending=True, stable=True).indices[shape.candidates :]] = False
        row_N, label_N = open_AK.nonzero(as_tuple=True)
        if shape.limits == "pairs":
            best = score_AK[row_N, label_N].sort(descending=True, stable=True).indices[: shape.candidates]
            row_N, label_N = row_N[best], label_N[best]
        boxes.append(clip_boxes_to_image(decode_boxes(anchor_A4[row_N], change_A4[row_N]), size))
        labels.append(label_N)
        scores.append(score_AK[row_N, label_N])
    box_N4, label_N, score_N = torch.cat(boxes), torch.cat(labels), torch.cat(scores)
    kept = batched_nms(box_N4.float(), score_N.float(), label_N, shape.nms)[:top]
    return box_N4[kept], label_N[kept], score_N[kept]
