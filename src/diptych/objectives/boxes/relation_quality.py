"""Soft targets for relations: less for pairs whose boxes are off, some for names that mean nearly the same (RLIP, 2209.01814).

*Quality labels.* A matched query earns its relations as far as its two boxes deserve them:

    y~ = y (min(GIoU_s, GIoU_o) + 1) / 2                       a constant: nothing flows back into the boxes

*Pseudo-labels.* A name that lies near a true one in the space of the label texts is no plain negative. With t_j the text features
before any fusion and y the true relations of a pair,

    D_ij = |t_i - t_j|,   S_ij = max_k D_ik - D_ij,   s = sum_{i in y} S_i,   s <- s / max_j s_j,   s[y] = 0,   s <- s 1[s > 0.3]

and the target is y + s. With both, y + s is multiplied by the quality.

What implementations get wrong: 0 / 0 with a single label, or with labels that all read the same; distances by the matrix-product
shortcut, which leaves 1e-3 where a name meets itself.

Letters: M pairs, R relation names, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.boxes.boxes import giou, iou, xyxy_from_cxcywh


@torch.no_grad()
def pair_quality(
    subject_M4: Tensor,
    true_subject_M4: Tensor,
    object_M4: Tensor,
    true_object_M4: Tensor,
    *,
    has_object_M: Tensor | None = None,
    measure: Literal["giou", "iou"] = "giou",
) -> Tensor:
    """quality_M in [0, 1]: how well both boxes (cxcywh) of a pair lie, by the worse one; the subject's alone without an object.

    `measure` "giou" is the published one, mapped from (-1, 1] to (0, 1]; it still grades boxes that miss. "iou" gives those 0.
    """
    if measure not in ("giou", "iou"):
        raise ConfigError(f"measure must be 'giou' or 'iou', got {measure!r}")
    overlap = giou if measure == "giou" else iou
    subject_M = overlap(xyxy_from_cxcywh(subject_M4), xyxy_from_cxcywh(true_subject_M4))
    object_M = overlap(xyxy_from_cxcywh(object_M4), xyxy_from_cxcywh(true_object_M4))
    if has_object_M is not None:
        object_M = torch.where(has_object_M, object_M, subject_M)
    worse_M = torch.minimum(subject_M, object_M)
    return ((worse_M + 1) / 2 if measure == "giou" else worse_M).clamp(0, 1)


@torch.no_grad()
def label_similarity(text_RD: Tensor) -> Tensor:
    """similarity_RR >= 0: S_ij = max_k D_ik - D_ij over Euclidean distances; 0 for the farthest name of each row.

    Takes the texts' features before fusion with an image, not normalised further.
    """
    if text_RD.ndim != 2:
        raise ShapeError(f"label features must be [R, D], got {list(text_RD.shape)}")
    wide_RD = text_RD.to(torch.promote_types(text_RD.dtype, torch.float32))
    distance_RR = torch.cdist(wide_RD, wide_RD, compute_mode="donot_use_mm_for_euclid_dist")
    return distance_RR.amax(1, keepdim=True) - distance_RR if len(text_RD) else distance_RR


@torch.no_grad()
def pseudo_labels(relation_XR: Tensor, similarity_RR: Tensor, *, threshold: float = 0.3) -> Tensor:
    """target_XR: the true relations (0/1) and, below 1, what similar names earn. Rows without a relation stay zero.

    `threshold` is the share of the row's highest similarity below which a name earns nothing. A name whose text equals a true one
    earns 1 too.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
    true_XR = relation_XR.to(similarity_RR)
    share_XR = true_XR @ similarity_RR
    if share_XR.shape[-1]:
        share_XR = share_XR / share_XR.amax(-1, keepdim=True).clamp(min=torch.finfo(share_XR.dtype).tiny)
    earned_XR = torch.where((true_XR == 0) & (share_XR > threshold), share_XR, 0)
    return (true_XR + earned_XR).to(relation_XR.dtype)
