"""Boxes of any leading shape: conversions, overlap, and the two box losses of detectors.

    IoU  = |A n B| / |A u B|                    GIoU = IoU - |hull \\ (A u B)| / |hull|       (Rezatofighi et al., 2019, 1902.09630)

GIoU lies in (-1, 1] and, other than IoU, still has a gradient where the boxes do not meet. Two arrangements: *aligned* functions
take [..., 4] and [..., 4] that broadcast and give [...]; *pairwise* ones take [..., N, 4] and [..., M, 4] and give [..., N, M], so a
batch needs no loop. Values are those of `torchvision.ops`, which takes two-dimensional box tensors only.

What implementations get wrong: 0 / 0 for two boxes without area (here IoU is 0 and the gradient finite); GIoU of cxcywh boxes
that were never converted; an intersection whose negative sides multiply to a positive area.

Letters: N, M boxes. xyxy: corners, x0 < x1. cxcywh: centre and sides. Any unit, the same for both arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ShapeError

SMALLEST = 1e-9
"""Minimum divisor for areas: far below the area of a pixel, in normalised as in pixel coordinates."""


def xyxy_from_cxcywh(box_X4: Tensor) -> Tensor:
    """Boxes from centre and sides to corners."""
    centre_X2, side_X2 = _two_by_two(box_X4)
    return torch.cat([centre_X2 - side_X2 / 2, centre_X2 + side_X2 / 2], dim=-1)


def cxcywh_from_xyxy(box_X4: Tensor) -> Tensor:
    """Boxes from corners to centre and sides."""
    low_X2, high_X2 = _two_by_two(box_X4)
    return torch.cat([(low_X2 + high_X2) / 2, high_X2 - low_X2], dim=-1)


def area(xyxy_X4: Tensor) -> Tensor:
    """width * height of xyxy boxes."""
    low_X2, high_X2 = _two_by_two(xyxy_X4)
    return (high_X2 - low_X2).prod(-1)


def iou(one_X4: Tensor, two_X4: Tensor) -> Tensor:
    """Intersection over union of aligned xyxy boxes; 0 when neither has an area."""
    shared_X, union_X = _shared_and_union(one_X4, two_X4)
    return shared_X / union_X.clamp(min=SMALLEST)


def giou(one_X4: Tensor, two_X4: Tensor) -> Tensor:
    """Generalised IoU of aligned xyxy boxes, in (-1, 1]."""
    shared_X, union_X = _shared_and_union(one_X4, two_X4)
    hull_X2 = torch.maximum(one_X4[..., 2:], two_X4[..., 2:]) - torch.minimum(one_X4[..., :2], two_X4[..., :2])
    hull_X = hull_X2.clamp(min=0).prod(-1).clamp(min=SMALLEST)
    return shared_X / union_X.clamp(min=SMALLEST) - (hull_X - union_X) / hull_X


def pairwise_iou(one_XN4: Tensor, two_XM4: Tensor) -> Tensor:
    """[..., N, M] IoU of every xyxy box with every other."""
    return iou(one_XN4[..., :, None, :], two_XM4[..., None, :, :])


def pairwise_giou(one_XN4: Tensor, two_XM4: Tensor) -> Tensor:
    """[..., N, M] generalised IoU of every xyxy box with every other."""
    return giou(one_XN4[..., :, None, :], two_XM4[..., None, :, :])


def pairwise_l1(one_XN4: Tensor, two_XM4: Tensor) -> Tensor:
    """[..., N, M] sum of the four absolute differences of every box with every other."""
    return torch.cdist(one_XN4, two_XM4, p=1.0)


def l1_loss(one_X4: Tensor, two_X4: Tensor) -> Tensor:
    """Sum of the four absolute differences of aligned boxes, one value per box."""
    return (one_X4 - two_X4).abs().sum(-1)


def giou_loss(one_X4: Tensor, two_X4: Tensor) -> Tensor:
    """1 - GIoU of aligned xyxy boxes, in [0, 2), one value per box."""
    return 1 - giou(one_X4, two_X4)


def _shared_and_union(one_X4: Tensor, two_X4: Tensor) -> tuple[Tensor, Tensor]:
    side_X2 = torch.minimum(one_X4[..., 2:], two_X4[..., 2:]) - torch.maximum(one_X4[..., :2], two_X4[..., :2])
    shared_X = side_X2.clamp(min=0).prod(-1)
    return shared_X, area(one_X4) + area(two_X4) - shared_X


def _two_by_two(box_X4: Tensor) -> tuple[Tensor, Tensor]:
    if box_X4.shape[-1:] != (4,):
        raise ShapeError(f"boxes must be [..., 4], got {list(box_X4.shape)}")
    return box_X4[..., :2], box_X4[..., 2:]
