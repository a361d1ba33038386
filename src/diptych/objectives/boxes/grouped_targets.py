"""Losses of boxes and masks whose targets are matched within groups (REF-VLM, 2503.07413).

    boxes   5 L1 + 2 (1 - GIoU),   masks   20 focal + 1 dice,   summed over the matched pairs, over the number of targets

Targets under one phrase have no order, so that they are matched by the assignment of least cost (5 L1 - 2 GIoU; 20 focal + 1 dice);
those of different phrases are never exchanged. One group for all is DETR's matching. There is no class "nothing": as many are predicted as
there are targets.

Letters: B batch, R targets of a row, H W of a predicted mask, X Y of a true one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.boxes.boxes import giou_loss, l1_loss, pairwise_giou, pairwise_l1, xyxy_from_cxcywh
from diptych.objectives.boxes.focal import sigmoid_focal
from diptych.objectives.boxes.matching import IMPOSSIBLE, assign

Matching = Literal["group", "row", "none"]
"""Among which targets of a row predictions are assigned: those of their group, all, or the one of the same number."""


@torch.no_grad()
def assign_in_groups(cost_BRR: Tensor, group_BR: Tensor, *, matching: Matching = "group") -> Tensor:
    """[B, R]: number of the prediction that each target is compared with.

    cost_BRR  of each prediction (rows) for each target (columns); prediction r was made for target r's group
    group_BR  number of each target's group, -1 for padding, which keeps its own number
    """
    if matching not in ("group", "row", "none"):
        raise ConfigError(f"matching is {matching!r} (expected group | row | none)")
    if cost_BRR.shape != (*group_BR.shape, group_BR.shape[-1]):
        raise ShapeError(f"costs must be [B, R, R] with groups [B, R], got {list(cost_BRR.shape)} and {list(group_BR.shape)}")
    own_R = torch.arange(group_BR.shape[1], device=group_BR.device)
    if matching == "none":
        return own_R.expand_as(group_BR)
    there_BR = group_BR >= 0
    block_BR = group_BR if matching == "group" else torch.where(there_BR, 0, -1)
    apart_BRR = block_BR[:, :, None] != block_BR[:, None, :]
    matched_BR = assign(cost_BRR.masked_fill(apart_BRR, IMPOSSIBLE), there_BR)
    return torch.where(there_BR, matched_BR, own_R)


def box_losses(
    box_BR4: Tensor, true_BR4: Tensor, group_BR: Tensor, *, matching: Matching = "group", l1: float = 5.0, giou: float = 2.0
) -> dict[str, Tensor]:
    """Weighted terms l1 and giou of predicted boxes, cxcywh in 0..1. `true_BR4` and `group_BR` as of `assign_in_groups`."""
    there_BR = group_BR >= 0
    safe_BR4 = torch.where(there_BR[..., None], true_BR4, torch.full_like(true_BR4, 0.5))
    corner_BR4, true_corner_BR4 = xyxy_from_cxcywh(box_BR4), xyxy_from_cxcywh(safe_BR4)
    cost_BRR = l1 * pairwise_l1(box_BR4.detach(), safe_BR4) - giou * pairwise_giou(corner_BR4.detach(), true_corner_BR4)
    index_BR = assign_in_groups(cost_BRR, group_BR, matching=matching)[..., None].expand_as(box_BR4)
    count = there_BR.sum().clamp_min(1)
    terms = {
        "l1": l1 * l1_loss(box_BR4.gather(1, index_BR), safe_BR4),
        "giou": giou * giou_loss(corner_BR4.gather(1, index_BR), true_corner_BR4),
    }
    return {name: term_BR.masked_fill(~there_BR, 0).sum() / count for name, term_BR in terms.items()}


def mask_losses(
    logit_BRHW: Tensor,
    true_BRXY: Tensor,
    group_BR: Tensor,
    shown_BXY: Tensor,
    *,
    matching: Matching = "group",
    focal: float = 20.0,
    dice: float = 1.0,
) -> dict[str, Tensor]:
    """Weighted terms focal and dice of predicted masks, which are resized to the true ones.

    shown_BXY  True on the picture, False on what pads it to a square: only the picture counts. Costs of the matching count every pixel
               at the predictions' size, as released
    """
    there_BR = group_BR >= 0
    true_BRXY = true_BRXY.to(logit_BRHW)
    small_BRHW = F.interpolate(true_BRXY, size=logit_BRHW.shape[-2:], mode="nearest")
    cost_BRR = focal * pairwise_mask_focal(logit_BRHW.detach(), small_BRHW) + dice * pairwise_dice(
        logit_BRHW.detach(), small_BRHW
    )
    index_BR = assign_in_groups(cost_BRR, group_BR, matching=matching)
    chosen_BRHW = logit_BRHW.gather(1, index_BR[..., None, None].expand_as(logit_BRHW))
    large_BRXY = F.interpolate(chosen_BRHW, size=true_BRXY.shape[-2:], mode="bilinear", align_corners=False)
    shown_B1XY = shown_BXY[:, None].to(logit_BRHW)
    pixels_B1 = shown_B1XY.sum((-2, -1)).clamp_min(1)  # a very narrow picture may have none
    focal_BR = (sigmoid_focal(large_BRXY, true_BRXY) * shown_B1XY).sum((-2, -1)) / pixels_B1
    chance_BRXY, truth_BRXY = large_BRXY.sigmoid() * shown_B1XY, true_BRXY * shown_B1XY
    both_BR = (chance_BRXY * truth_BRXY).sum((-2, -1))
    dice_BR = 1 - (2 * both_BR + 1) / (chance_BRXY.sum((-2, -1)) + truth_BRXY.sum((-2, -1)) + 1)
    count = there_BR.sum().clamp_min(1)
    terms = {"focal": focal * focal_BR, "dice": dice * dice_BR}
    return {name: term_BR.masked_fill(~there_BR, 0).sum() / count for name, term_BR in terms.items()}


def pairwise_mask_focal(logit_BRHW: Tensor, true_BGHW: Tensor) -> Tensor:
    """[B, R, G] mean focal loss of each predicted mask against each true one (MaskFormer, 2107.06278)."""
    logit_BRP, true_BGP = logit_BRHW.flatten(2), true_BGHW.flatten(2)
    yes_BRP = sigmoid_focal(logit_BRP, torch.ones_like(logit_BRP))
    no_BRP = sigmoid_focal(logit_BRP, torch.zeros_like(logit_BRP))
    return (yes_BRP @ true_BGP.mT + no_BRP @ (1 - true_BGP).mT) / logit_BRP.shape[-1]


def pairwise_dice(logit_BRHW: Tensor, true_BGHW: Tensor) -> Tensor:
    """[B, R, G] dice loss of each predicted mask against each true one, 1 added above and below (MaskFormer, 2107.06278)."""
    chance_BRP, true_BGP = logit_BRHW.sigmoid().flatten(2), true_BGHW.flatten(2)
    both_BRG = chance_BRP @ true_BGP.mT
    return 1 - (2 * both_BRG + 1) / (chance_BRP.sum(-1)[..., None] + true_BGP.sum(-1)[:, None] + 1)
