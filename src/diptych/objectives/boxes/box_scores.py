"""Auxiliary loss of DenseCLIP's detectors (2112.01518): classifies each position of a score map by the boxes that contain it.

Letters: B batch, K classes, N boxes of an image, H W places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
"""Stride of the targets in image pixels: that of the finest feature map."""


def box_targets(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], classes: int, height: int, width: int, *, released: bool = False
) -> tuple[Tensor, Tensor]:
    """Class targets of each position, [B, K, H, W], and a mask of positions inside any box, [B, 1, H, W], both of 0 and 1.

    boxes     xyxy in pixels [N, 4] of each image; corners are cut to whole places, so that a box below four pixels may have none
    labels    int64 [N] of each image
    released  corners end one place before the edge, as in the released code: boxes that reach it lose their last row and column
    """
    target_BKHW = torch.zeros(len(boxes), classes, height, width, device=boxes[0].device)
    inside_B1HW = torch.zeros(len(boxes), 1, height, width, device=boxes[0].device)
    last_4 = torch.tensor([width, height, width, height], device=boxes[0].device) - int(released)
    for row, (box_N4, label_N) in enumerate(zip(boxes, labels, strict=True)):
        place_N4 = torch.minimum((box_N4 / STRIDE).long().clamp_min(0), last_4)
        for (x0, y0, x1, y1), label in zip(place_N4.tolist(), label_N.tolist(), strict=True):
            target_BKHW[row, label, y0:y1, x0:x1] = 1
            inside_B1HW[row, :, y0:y1, x0:x1] = 1
    return target_BKHW, inside_B1HW


def box_score_loss(score_BKHW: Tensor, target_BKHW: Tensor, inside_B1HW: Tensor) -> Tensor:
    """Binary cross-entropy of the sigmoid of scores (already divided by the temperature, and resized bilinearly to the targets),
    only on positions inside a box, divided by their number times K. 0 without any box, where the released code gives NaN."""
    score_BKHW = F.interpolate(score_BKHW, size=target_BKHW.shape[2:], mode="bilinear", align_corners=False)
    each_BKHW = F.binary_cross_entropy_with_logits(score_BKHW, target_BKHW.to(score_BKHW), reduction="none") * inside_B1HW
    return each_BKHW.sum() / (inside_B1HW.sum() * score_BKHW.shape[1]).clamp_min(1)
