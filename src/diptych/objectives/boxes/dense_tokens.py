"""Dense grounding loss: adaptive training sample selection (ATSS, Zhang et al., 2020, arXiv 1912.02424) with GLIP's token focal
loss (2112.03857), as in FIBER's second stage.

Assignment of anchors to true boxes: on each feature map the nine anchors whose centres are nearest to the box centre are
candidates; candidates with an IoU of at least the mean + standard deviation of the candidates' IoUs, and whose centre lies inside
the box, are positives. An anchor claimed by several boxes goes to the one with the highest IoU.

    loss = [ sum over anchors, real tokens of focal(s, y)  +  sum over positives of BCE(centre, c) ] / positives
         + 2 sum over positives of c (1 - GIoU) / sum of c,      c = sqrt( min(l, r) / max(l, r) * min(t, b) / max(t, b) )

What implementations get wrong: the standard deviation is the sample one (n - 1); padding counted as negatives; divisors of only
the local process. As in the released code, insides, c and GIoU are measured between the first and the last pixel of a box, one
less than its sides. The released code uses the last of 256 tokens as "no object"; only a text of that length reaches it, and its
last token learns it (`nothing`).

Letters: B images, A anchors, L tokens, G true boxes; P positives. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from diptych.core.errors import ShapeError
from diptych.data.graphs.grounded import DenseRegions, TokenTargets, moved_anchors
from diptych.objectives.boxes.boxes import xyxy_from_cxcywh
from diptych.objectives.boxes.focal import sigmoid_focal
from diptych.objectives.boxes.pair_tensors import at_least_float32
from diptych.objectives.gather import Group, all_gather, world

INSIDE = 0.01  # minimum distance in pixels between an anchor's centre and the edge of its box
EPS = 1e-7


@torch.no_grad()
def adaptive_assignment(anchor_A4: Tensor, counts: Sequence[int], box_G4: Tensor, *, nearest: int = 9) -> Tensor:
    """ATSS assignment: index of the true box of each anchor, int64 [A], -1 for none. `counts`: anchors of each map, one per
    position."""
    if sum(counts) != len(anchor_A4):
        raise ShapeError(f"maps of {list(counts)} anchors but {len(anchor_A4)} anchors")
    none_A = torch.full((len(anchor_A4),), -1, dtype=torch.int64, device=anchor_A4.device)
    if not len(box_G4):
        return none_A
    iou_AG = box_iou(anchor_A4, box_G4.to(anchor_A4))
    middle_A2, true_G2 = ((boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (anchor_A4, box_G4.to(anchor_A4)))
    far_AG = (middle_A2[:, None] - true_G2).pow(2).sum(-1).sqrt()
    starts = [sum(counts[:level]) for level in range(len(counts))]
    near_CG = torch.cat(
        [
            far_AG[start : start + count].topk(min(nearest, count), dim=0, largest=False).indices + start
            for start, count in zip(starts, counts, strict=True)
        ]
    )
    near_iou_CG = iou_AG.gather(0, near_CG)
    enough_CG = near_iou_CG >= near_iou_CG.mean(0) + near_iou_CG.std(0)
    edge_CG4 = edge_distances(middle_A2[near_CG], box_G4.to(anchor_A4))
    positive_AG = torch.zeros_like(iou_AG, dtype=torch.bool).scatter_(0, near_CG, enough_CG & (edge_CG4.amin(-1) > INSIDE))
    best_A, box_A = iou_AG.masked_fill(~positive_AG, -torch.inf).max(1)
    return torch.where(best_A > -torch.inf, box_A, none_A)


def edge_distances(middle_X2: Tensor, box_X4: Tensor) -> Tensor:
    """Distances [X, 4] from centres to the first column and row and the last ones of a box, between pixel centres, in pixels."""
    half = 0.5  # offset of a pixel's centre from its corner
    return torch.cat((middle_X2 - half - box_X4[..., :2], box_X4[..., 2:] - 1 - (middle_X2 - half)), -1)


def centreness(middle_X2: Tensor, box_X4: Tensor) -> Tensor:
    """Centreness: 0 at an edge of the box, 1 at its centre."""
    left_X, top_X, right_X, bottom_X = edge_distances(middle_X2, box_X4).unbind(-1)
    shares = [torch.minimum(a, b) / torch.maximum(a, b) for a, b in ((left_X, right_X), (top_X, bottom_X))]
    return (shares[0] * shares[1]).sqrt()


def giou_of_pixels(one_P4: Tensor, two_P4: Tensor) -> Tensor:
    """GIoU of boxes measured between their first and their last pixel. A predicted box smaller than a pixel has no area."""
    low_P2, high_P2 = one_P4[:, :2], torch.maximum(one_P4[:, :2], one_P4[:, 2:] - 1)
    true_low_P2, true_high_P2 = two_P4[:, :2], two_P4[:, 2:] - 1
    shared_P2 = torch.minimum(high_P2, true_high_P2) - torch.maximum(low_P2, true_low_P2)
    shared_P = shared_P2.clamp(min=0).prod(1)
    union_P = (high_P2 - low_P2).prod(1) + (true_high_P2 - true_low_P2).prod(1) - shared_P + EPS
    hull_P = (torch.maximum(high_P2, true_high_P2) - torch.minimum(low_P2, true_low_P2)).prod(1) + EPS
    return shared_P / union_P - (hull_P - union_P) / hull_P


@dataclass(frozen=True, slots=True)
class DenseTokenLoss:
    """Assignment and loss; the fields are weights. Called with predictions and targets.

    nearest                    candidates per feature map and true box
    focal_alpha, focal_gamma   of the focal loss
    nothing                    text length at which the last token means "no object" (released: 256); 0: never
    """

    token_weight: float = 1.0
    box_weight: float = 2.0
    centre_weight: float = 1.0
    nearest: int = 9
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    nothing: int = 256

    def __call__(
        self, regions: DenseRegions, targets: TokenTargets, *, process_group: Group = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the weighted terms tokens, boxes and centres, and the parts anchors_a_box and giou_of_matched for logging."""
        got, shape = targets.positive_BGL.shape, regions.token_logit_BAL.shape
        if got[0] != shape[0] or got[2] != shape[2]:
            raise ShapeError(f"predictions are of {shape[0]} texts of {shape[2]} tokens but targets are {list(got)} (B, G, L)")
        logit_BAL, centre_BA, change_BA4 = (
            at_least_float32(x) for x in (regions.token_logit_BAL, regions.centre_BA, regions.change_BA4)
        )
        true_BG4 = xyxy_from_cxcywh(targets.box_BG4.to(change_BA4)) * regions.size_B2.to(change_BA4).flip(1).repeat(1, 2)[:, None]
        box_BA = torch.stack(
            [self._assigned(regions, true_G4, valid_G) for true_G4, valid_G in zip(true_BG4, targets.valid_BG, strict=True)]
        )
        image_P, anchor_P = (box_BA >= 0).nonzero(as_tuple=True)
        box_P = box_BA[image_P, anchor_P]
        target_BAL = torch.zeros_like(logit_BAL)
        target_BAL[image_P, anchor_P] = targets.positive_BGL[image_P, box_P].to(logit_BAL)
        if target_BAL.shape[2] == self.nothing:
            target_BAL[..., -1] = torch.where(box_BA >= 0, target_BAL[..., -1], 1.0)
        focal_BAL = (
            sigmoid_focal(logit_BAL, target_BAL, alpha=self.focal_alpha, gamma=self.focal_gamma) * regions.mask_BL[:, None]
        )
        anchor_P4, true_P4 = regions.anchor_A4[anchor_P].to(change_BA4), true_BG4[image_P, box_P]
        central_P = centreness((anchor_P4[:, :2] + anchor_P4[:, 2:]) / 2, true_P4)
        overlap_P = giou_of_pixels(moved_anchors(anchor_P4, change_BA4[image_P, anchor_P]), true_P4)
        own_4 = torch.stack(
            [central_P.new_tensor(len(image_P)), central_P.sum(), overlap_P.detach().sum(), targets.valid_BG.sum()]
        )
        count, central, overlap, boxes = all_gather(own_4, process_group).sum(0).unbind()
        processes = world(process_group)[1]
        positives, weights = (count / processes).clamp(min=1), (central / processes).clamp(min=EPS)
        central_loss = F.binary_cross_entropy_with_logits(centre_BA[image_P, anchor_P], central_P, reduction="sum")
        losses = {
            "tokens": self.token_weight * focal_BAL.sum() / positives,
            "boxes": self.box_weight * ((1 - overlap_P) * central_P).sum() / weights,
            "centres": self.centre_weight * central_loss / positives,
        }
        return losses, {"anchors_a_box": count / boxes.clamp(min=1), "giou_of_matched": overlap / count.clamp(min=1)}

    def _assigned(self, regions: DenseRegions, true_G4: Tensor, valid_G: Tensor) -> Tensor:
        place_A = adaptive_assignment(regions.anchor_A4, regions.counts, true_G4[valid_G], nearest=self.nearest)
        whole_G = valid_G.nonzero()[:, 0]
        return torch.where(place_A >= 0, F.pad(whole_G, (0, 1))[place_A], place_A)
