"""Losses of anchor-based detectors: class and box regression of each anchor (RetinaNet, Lin et al., 2017, 1708.02002).

    classes  focal loss of every class of every anchor that counts
    boxes    L1 of the change, at anchors that have a box

Both are sums over the batch divided by the number of anchors that have a box, an image without any counting one (mmdetection).
torchvision divides each image by its own number and takes the mean of the images, so that an image of few anchors weighs as much as one
of many.

Letters: N images, A anchors, K classes, M boxes of an image. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from diptych.objectives.boxes.focal import sigmoid_focal

BACKGROUND, IGNORED = -1, -2


def matched_anchors(anchor_A4: Tensor, box_M4: Tensor, *, high: float = 0.5, low: float = 0.4, least: float = 0.0) -> Tensor:
    """int64 [A]: the box that each anchor is to become, or BACKGROUND, or IGNORED.

    An anchor that overlaps boxes by `high` or more takes the one that it overlaps most; below `low` it is background; between them it has
    no loss. Beyond that every box takes the anchors that overlap it most, if only by `least`, whatever other box they overlap more;
    of two boxes that ask for one anchor the later gets it, as in mmdetection. (torchvision keeps such an anchor from the background and
    gives it to the box that it overlaps most.)
    """
    found_A = torch.full((len(anchor_A4),), BACKGROUND, device=anchor_A4.device)
    if not len(box_M4) or not len(anchor_A4):
        return found_A
    overlap_MA = box_iou(box_M4, anchor_A4)
    best_A, place_A = overlap_MA.max(0)
    found_A[best_A >= low] = IGNORED
    found_A = torch.where(best_A >= high, place_A, found_A)
    for box, (overlap_A, most) in enumerate(zip(overlap_MA, overlap_MA.max(1).values.tolist(), strict=True)):
        if most > 0 and most >= least:
            found_A[overlap_A == most] = box
    return found_A


def encode_boxes(anchor_A4: Tensor, box_A4: Tensor) -> Tensor:
    """[A, 4]: what makes each anchor its box. Shift of the centre in sides of the anchor, logarithm of the sides' ratio."""
    old_A2, new_A2 = anchor_A4[:, 2:] - anchor_A4[:, :2], box_A4[:, 2:] - box_A4[:, :2]
    shift_A2 = (box_A4[:, :2] + new_A2 / 2 - anchor_A4[:, :2] - old_A2 / 2) / old_A2
    return torch.cat((shift_A2, (new_A2 / old_A2).log()), 1)


def anchor_losses(
    logit_NAK: Tensor,
    change_NA4: Tensor,
    anchor_A4: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    real_NA: Tensor | None = None,
) -> dict[str, Tensor]:
    """`boxes` [M, 4] and int64 `labels` [M] of each image; `real_NA` False where an anchor lies on padding and has no loss."""
    logit_NAK, change_NA4 = at_least_float32(logit_NAK), at_least_float32(change_NA4)
    focal, distance, count = logit_NAK.new_zeros(()), logit_NAK.new_zeros(()), 0
    for row, (box_M4, label_M) in enumerate(zip(boxes, labels, strict=True)):
        real_A = torch.ones(len(anchor_A4), dtype=torch.bool, device=anchor_A4.device) if real_NA is None else real_NA[row]
        place_A = torch.full((len(anchor_A4),), IGNORED, device=anchor_A4.device)
        place_A[real_A] = matched_anchors(anchor_A4[real_A], box_M4)
        chosen = (place_A >= 0).nonzero()[:, 0]
        target_AK = torch.zeros_like(logit_NAK[row])
        target_AK[chosen, label_M[place_A[chosen]]] = 1
        focal = focal + sigmoid_focal(logit_NAK[row], target_AK)[place_A != IGNORED].sum()
        wanted_C4 = encode_boxes(anchor_A4[chosen], box_M4[place_A[chosen]]).to(change_NA4.dtype)
        distance = distance + F.l1_loss(change_NA4[row, chosen], wanted_C4, reduction="sum")
        count += max(1, len(chosen))
    return {"classes": focal / count, "boxes": distance / count}


def at_least_float32(value: Tensor) -> Tensor:
    """At least float32: a hundred thousand small losses do not add up in half precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
