"""Losses of a body's key points, matched by its box within a phrase (REF-VLM, 2503.07413).

    2 L1 over the visible points + 2 (1 - OKS) + 1 focal of visible or hidden + 5 L1 + 2 (1 - GIoU) of the box,

each summed over the matched bodies, over their number. OKS is the mean over visible points of exp(-d^2 / (2 s^2 area)), with s of each
point; COCO's own has (2 s)^2 in its place.

Letters: B batch, R targets of a row, K key points.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.objectives.boxes.boxes import giou_loss, l1_loss, pairwise_giou, pairwise_l1, xyxy_from_cxcywh
from diptych.objectives.boxes.focal import sigmoid_focal
from diptych.objectives.boxes.grouped_targets import Matching, assign_in_groups

COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""Deviation of each of COCO's 17 key points, as a share of the root of a body's area."""
CROWDPOSE_SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079)
"""The same of CrowdPose's 14."""
SIGMAS = {len(sigmas): sigmas for sigmas in (COCO_SIGMAS, CROWDPOSE_SIGMAS)}
Nearness = Literal["oks", "distance"]
"""1 - OKS, or the mean distance of all points, hidden ones too, which the release computes under that name."""


def object_key_point_similarity(point_NK2: Tensor, true_NK2: Tensor, visible_NK: Tensor, area_N: Tensor) -> Tensor:
    """OKS [N] in 0..1 of predicted key points; 0 where no point is visible. Raises ConfigError unless there are 17 or 14 points."""
    if point_NK2.shape[1] not in SIGMAS:
        raise ConfigError(f"{point_NK2.shape[1]} key points (expected {' or '.join(map(str, SIGMAS))})")
    sigma_K = point_NK2.new_tensor(SIGMAS[point_NK2.shape[1]])
    square_NK = (point_NK2 - true_NK2).square().sum(-1)
    alike_NK = (-square_NK / (2 * sigma_K**2 * (area_N[:, None] + 1e-6))).exp() * visible_NK
    return alike_NK.sum(1) / (visible_NK.sum(1) + 1e-6)


def key_point_losses(
    point_BRK2: Tensor,
    visible_BRK2: Tensor,
    box_BR4: Tensor,
    true_BRK3: Tensor,
    true_box_BR4: Tensor,
    group_BR: Tensor,
    *,
    matching: Matching = "group",
    l1: float = 5.0,
    giou: float = 2.0,
    points: float = 2.0,
    oks: float = 2.0,
    seen: float = 1.0,
    nearness: Nearness = "oks",
) -> dict[str, Tensor]:
    """Weighted terms l1, giou, points, oks and seen.

    visible_BRK2  logits, hidden and visible
    true_BRK3     x, y as shares of the square, and COCO's visibility: 0 not labelled, 1 hidden, 2 visible; 1 and 2 count as visible
    group_BR      as of `assign_in_groups`
    """
    if nearness not in ("oks", "distance"):
        raise ConfigError(f"nearness is {nearness!r} (expected oks | distance)")
    there_BR = group_BR >= 0
    safe_BR4 = torch.where(there_BR[..., None], true_box_BR4, torch.full_like(true_box_BR4, 0.5))
    corner_BR4, true_corner_BR4 = xyxy_from_cxcywh(box_BR4), xyxy_from_cxcywh(safe_BR4)
    cost_BRR = l1 * pairwise_l1(box_BR4.detach(), safe_BR4) - giou * pairwise_giou(corner_BR4.detach(), true_corner_BR4)
    index_BR = assign_in_groups(cost_BRR, group_BR, matching=matching)
    row_B1 = torch.arange(len(index_BR), device=index_BR.device)[:, None]
    point_BRK2, logit_BRK2 = point_BRK2[row_B1, index_BR], visible_BRK2[row_B1, index_BR]
    true_BRK2, visible_BRK = true_BRK3[..., :2], true_BRK3[..., 2] > 0
    apart_BRK2 = (point_BRK2 - true_BRK2).masked_fill(~there_BR[..., None, None], 0)
    if nearness == "oks":
        area_BR = safe_BR4[..., 2] * safe_BR4[..., 3]
        flat = (point_BRK2, true_BRK2, visible_BRK, area_BR)
        near_BR = 1 - object_key_point_similarity(*(value.flatten(0, 1) for value in flat)).unflatten(0, index_BR.shape)
    else:
        near_BR = (apart_BRK2 + 1e-6).norm(dim=-1).mean(-1)
    truth_BRK2 = torch.stack([~visible_BRK, visible_BRK], -1).to(logit_BRK2)
    terms = {
        "l1": l1 * l1_loss(box_BR4[row_B1, index_BR], safe_BR4),
        "giou": giou * giou_loss(corner_BR4[row_B1, index_BR], true_corner_BR4),
        "points": points * (apart_BRK2.abs() * visible_BRK[..., None]).sum((-2, -1)),
        "oks": oks * near_BR,
        "seen": seen * sigmoid_focal(logit_BRK2, truth_BRK2).mean(-1).sum(-1),
    }
    count = there_BR.sum().clamp_min(1)
    return {name: term_BR.masked_fill(~there_BR, 0).sum() / count for name, term_BR in terms.items()}
