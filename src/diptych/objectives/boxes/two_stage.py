"""Mask R-CNN losses (He et al., 2017, 1703.06870) as in mmdetection.

    proposals       binary cross-entropy of sampled anchors: object or background
    proposal_boxes  L1 of the box deltas, at positive sampled anchors
    classes         cross-entropy of sampled regions, the background last
    boxes           L1 of the box deltas in units of `SPREAD`, at positive regions, only for the true class
    masks           binary cross-entropy of the pixels of positive regions, only for the true class

The first two are divided by the number of sampled anchors, counting at least one of either kind per image; classes and boxes by
all sampled regions, including background; masks are a mean. torchvision uses a smooth L1 with beta 1/9 instead of L1.

Letters: N images, A anchors, K classes, C classes and the background, M boxes of an image, S drawn regions of all images, P those with a
box, H W pixels. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from diptych.objectives.boxes.anchors import IGNORED, at_least_float32, encode_boxes
from diptych.objectives.boxes.sampling import BoxSampling, Drawn, sample_rows

SPREAD = (0.1, 0.1, 0.2, 0.2)
"""Scale of region box deltas: one unit is a tenth of the box sides, or a factor of e ** 0.2."""


def proposal_losses(
    logit_NA: Tensor,
    change_NA4: Tensor,
    anchor_A4: Tensor,
    boxes: Sequence[Tensor],
    sampling: BoxSampling,
    real_NA: Tensor | None = None,
) -> dict[str, Tensor]:
    """Losses of the region proposal network. `real_NA` is False for anchors on padding, which have no loss."""
    logit_NA, change_NA4 = at_least_float32(logit_NA), at_least_float32(change_NA4)
    wrong, distance, count = logit_NA.new_zeros(()), change_NA4.new_zeros(()), 0
    for row, box_M4 in enumerate(boxes):
        real_A = torch.ones(len(anchor_A4), dtype=torch.bool, device=anchor_A4.device) if real_NA is None else real_NA[row]
        place_A = torch.full((len(anchor_A4),), IGNORED, device=anchor_A4.device)
        place_A[real_A] = sampling.matched(anchor_A4[real_A], box_M4)
        true_P, rest_S = sample_rows(place_A, sampling)
        logit_S = logit_NA[row, torch.cat((true_P, rest_S))]
        thing_S = torch.zeros_like(logit_S)
        thing_S[: len(true_P)] = 1
        wrong = wrong + F.binary_cross_entropy_with_logits(logit_S, thing_S, reduction="sum")
        wanted_P4 = encode_boxes(anchor_A4[true_P], box_M4[place_A[true_P]]).to(change_NA4.dtype)
        distance = distance + F.l1_loss(change_NA4[row, true_P], wanted_P4, reduction="sum")
        count += max(1, len(true_P)) + max(1, len(rest_S))
    return {"proposals": wrong / count, "proposal_boxes": distance / count}


def region_losses(
    logit_SC: Tensor, change_SK4: Tensor, regions: Sequence[Drawn], boxes: Sequence[Tensor], labels: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Classification and box losses of the `regions` of each image, in row order; int64 `labels` [M] of its `boxes`."""
    logit_SC, change_SK4 = at_least_float32(logit_SC), at_least_float32(change_SK4)
    class_S, true_S, targets_P4 = [], [], []
    for (region_S4, place_P), box_M4, label_M in zip(regions, boxes, labels, strict=True):
        class_s = label_M.new_full((len(region_S4),), logit_SC.shape[1] - 1)
        class_s[: len(place_P)] = label_M[place_P]
        class_S.append(class_s)
        true_S.append(torch.arange(len(region_S4), device=region_S4.device) < len(place_P))
        targets_P4.append(encode_boxes(region_S4[: len(place_P)], box_M4[place_P]))
    count, class_all, true_all = max(1, len(logit_SC)), torch.cat(class_S), torch.cat(true_S)
    wrong = F.cross_entropy(logit_SC, class_all, reduction="sum") / count
    change_P4 = change_SK4[true_all.nonzero()[:, 0], class_all[true_all]]
    wanted_P4 = torch.cat(targets_P4) / change_P4.new_tensor(SPREAD)
    return {"classes": wrong, "boxes": F.l1_loss(change_P4, wanted_P4.to(change_P4.dtype), reduction="sum") / count}


def mask_targets(regions: Sequence[Drawn], masks: Sequence[Tensor], side: int) -> Tensor:
    """Mask targets [P, side, side] of 0 and 1: the ground-truth mask of each positive region, cropped to the region.

    masks  bool [M, H, W] of each image. A cell is 1 where the mask, averaged with the interpolation of RoIAlign, is at least
           half.
    """
    targets = []
    for (region_S4, place_P), mask_MHW in zip(regions, masks, strict=True):
        height, width = mask_MHW.shape[1:]
        box_P4 = region_S4[: len(place_P)].float()
        box_P4 = torch.minimum(box_P4.clamp_min(0), box_P4.new_tensor([width, height, width, height]))
        row_P5 = torch.cat((place_P[:, None].to(box_P4), box_P4), 1)
        cut_P1SS = roi_align(mask_MHW[:, None].to(box_P4), row_P5, side, 1.0, 0, True)
        targets.append((cut_P1SS[:, 0] >= 0.5).to(box_P4))
    return torch.cat(targets)


def mask_loss(
    logit_PKHW: Tensor, regions: Sequence[Drawn], masks: Sequence[Tensor], labels: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Mask loss of positive regions; `masks` bool [M, H, W] and `labels` int64 [M] of each image. 0 if there are no such
    regions."""
    label_P = torch.cat([label_M[place_P] for (_, place_P), label_M in zip(regions, labels, strict=True)])
    if not len(label_P):
        return {"masks": logit_PKHW.sum()}
    own_PHW = at_least_float32(logit_PKHW[torch.arange(len(label_P), device=label_P.device), label_P])
    target_PHW = mask_targets(regions, masks, logit_PKHW.shape[-1]).to(own_PHW.dtype)
    return {"masks": F.binary_cross_entropy_with_logits(own_PHW, target_PHW)}
