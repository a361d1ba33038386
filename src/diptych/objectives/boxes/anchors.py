"""Losses of anchor-based detectors: class and box regression of each anchor (RetinaNet, Lin et al., 2017, 1708.02002).

    classes  focal loss of every class of every anchor that is not ignored
    boxes    L1 of the box deltas, at positive anchors

Both are sums over the batch divided by the number of positive anchors, where an image without any counts as one (mmdetection).
torchvision normalises each image by its own number and averages over images, so an image with few positive anchors weighs as much
as one with many.

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
    """Matches anchors to boxes: index of the box of each anchor, BACKGROUND or IGNORED, int64 [A].

    An anchor with an IoU of at least `high` takes the box with the highest IoU; below `low` it is background; in between it is
    ignored. In addition every box takes the anchors with the highest IoU to it, if that is at least `least`, even if they overlap
    another box more; if two boxes claim an anchor the later one gets it, as in mmdetection. (torchvision does not let such an
    anchor become background, and gives it to the box that it overlaps most.)
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
    """Box deltas [A, 4] from anchors to boxes: centre offset in units of the anchor's sides, log of the ratio of the sides."""
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
    """Class and box losses; `boxes` [M, 4] and int64 `labels` [M] of each image; `real_NA` is False for anchors on padding (no
    loss)."""
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
    """Casts to at least float32: half precision cannot sum a hundred thousand small losses."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
