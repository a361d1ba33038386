"""The loss of a detector that grounds words: each true box is matched with one query, whose tokens it must say (GLIP's token focal loss
under the set matching of DETR).

    cost(q, g) = 2 mean over tokens of g of (focal(1) - focal(0))  +  5 L1  +  2 (-GIoU)                    (Grounding DINO, 2303.05499)
    loss       = [ 1 sum over q, real tokens of focal(s, y)  +  5 sum L1  +  2 sum (1 - GIoU) ] / number of true boxes

y_q is 1 at the tokens of the true box that q is matched with, and 0 everywhere for the others. A text that names nothing in the picture
is a lesson too: all its tokens are negatives, and the divisor is 1.

What implementations get wrong: padding counted as negatives; a text of exactly the full length, whose last token the release of GLIP
uses as "no object"; a divisor of this process alone, when others hold more boxes.

Letters: B images, S layers, Q queries, L tokens, G true boxes; M matched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ShapeError
from diptych.data.graphs.grounded import TokenRegions, TokenTargets
from diptych.objectives.boxes.boxes import giou_loss, l1_loss, pairwise_giou, pairwise_l1, xyxy_from_cxcywh
from diptych.objectives.boxes.focal import sigmoid_focal
from diptych.objectives.boxes.matching import assign, to_device
from diptych.objectives.boxes.pair_tensors import at_least_float32
from diptych.objectives.gather import Group, all_gather, world


@torch.no_grad()
def token_cost(logit_XQL: Tensor, positive_XGL: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """cost_XQG: of each query for each target the mean over the target's tokens of what saying yes costs less what saying no costs; 0
    for a target without a token."""
    logit_XQL = at_least_float32(logit_XQL)
    yes_XQL = sigmoid_focal(logit_XQL, torch.ones_like(logit_XQL), alpha=alpha, gamma=gamma)
    no_XQL = sigmoid_focal(logit_XQL, torch.zeros_like(logit_XQL), alpha=alpha, gamma=gamma)
    share_XGL = positive_XGL.to(logit_XQL)
    share_XGL = share_XGL / share_XGL.sum(-1, keepdim=True).clamp(min=1)
    return (yes_XQL - no_XQL) @ share_XGL.mT


@dataclass(frozen=True, slots=True)
class TokenSetLoss:
    """Matching and loss; the fields are weights, of matching first. Called with predictions and targets.

    alpha, gamma   of the focal loss, published .25 and 2
    """

    cost_token: float = 2.0
    cost_box: float = 5.0
    cost_giou: float = 2.0
    token: float = 1.0
    box: float = 5.0
    giou: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    @torch.no_grad()
    def match(self, predictions: TokenRegions, targets: TokenTargets, *, on_host: bool = False) -> Tensor:
        """query_BSG: the query of each true box after each layer, -1 for padding and boxes that found none; `on_host` as in `assign`."""
        box_BSQ4 = at_least_float32(predictions.box_BSQ4)
        true_BS4 = targets.box_BG4[:, None].to(box_BSQ4).expand(-1, box_BSQ4.shape[1], -1, -1)
        giou_BSQG = pairwise_giou(xyxy_from_cxcywh(box_BSQ4), xyxy_from_cxcywh(true_BS4))
        token_BSQG = token_cost(predictions.token_logit_BSQL, targets.positive_BGL[:, None], alpha=self.alpha, gamma=self.gamma)
        cost_BSQG = self.cost_token * token_BSQG + self.cost_box * pairwise_l1(box_BSQ4, true_BS4) - self.cost_giou * giou_BSQG
        return assign(cost_BSQG, targets.valid_BG[:, None], on_host=on_host)

    def __call__(
        self, predictions: TokenRegions, targets: TokenTargets, *, process_group: Group = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted terms tokens, boxes and giou, each the sum over layers; and parts for the log about the last layer, over all processes:
        boxes_an_image, token_accuracy (share of matched queries that say most to one of their own tokens) and giou_of_matched."""
        self._check(predictions, targets)
        query_BSG = self.match(predictions, targets, on_host=True)
        rows = (query_BSG >= 0).nonzero(as_tuple=True)
        image_M, layer_M, true_M, query_M = to_device(torch.stack([*rows, query_BSG[rows]]), predictions.box_BSQ4.device).unbind()
        logit_BSQL, box_BSQ4 = (at_least_float32(x) for x in (predictions.token_logit_BSQL, predictions.box_BSQ4))
        target_BSQL = torch.zeros_like(logit_BSQL)
        target_BSQL[image_M, layer_M, query_M] = targets.positive_BGL[image_M, true_M].to(logit_BSQL)
        focal_BSQL = sigmoid_focal(logit_BSQL, target_BSQL, alpha=self.alpha, gamma=self.gamma)
        boxes = all_gather(targets.valid_BG.sum().to(logit_BSQL)[None], process_group).sum() / world(process_group)[1]
        divisor = boxes.clamp(min=1)
        found_M4 = box_BSQ4[image_M, layer_M, query_M]
        wanted_M4 = targets.box_BG4[image_M, true_M].to(found_M4)
        corner_M4, true_corner_M4 = xyxy_from_cxcywh(found_M4), xyxy_from_cxcywh(wanted_M4)
        miss_M = giou_loss(corner_M4, true_corner_M4)
        losses = {
            "tokens": self.token * (focal_BSQL * predictions.mask_BL[:, None, None]).sum() / divisor,
            "boxes": self.box * l1_loss(found_M4, wanted_M4).sum() / divisor,
            "giou": self.giou * miss_M.sum() / divisor,
        }
        last_M = layer_M == query_BSG.shape[1] - 1
        logit_ML = logit_BSQL[image_M, layer_M, query_M].masked_fill(~predictions.mask_BL[image_M], -torch.inf)
        positive_ML = targets.positive_BGL[image_M, true_M]
        last = slice(None) if last_M.device.type != "cpu" else last_M  # on a GPU all, of which those of the last layer count
        counted_M = last_M.to(miss_M)[last]
        return losses, _parts(
            logit_ML[last], positive_ML[last], 1 - miss_M[last], counted_M, len(logit_BSQL), process_group=process_group
        )

    def _check(self, predictions: TokenRegions, targets: TokenTargets) -> None:
        got, shape = targets.positive_BGL.shape, predictions.token_logit_BSQL.shape
        if got[0] != shape[0] or got[2] != shape[3]:
            raise ShapeError(f"predictions are of {shape[0]} texts of {shape[3]} tokens but targets are {list(got)} (B, G, L)")


@torch.no_grad()
def _parts(
    logit_ML: Tensor, positive_ML: Tensor, giou_M: Tensor, counted_M: Tensor, images: int, *, process_group: Group
) -> dict[str, Tensor]:
    best_M1 = F.pad(logit_ML, (0, 1), value=-torch.inf).argmax(-1, keepdim=True)  # the text may be empty of tokens
    right_M = F.pad(positive_ML, (0, 1)).gather(1, best_M1)[:, 0].to(giou_M)
    own_4 = torch.stack([counted_M.sum(), (right_M * counted_M).sum(), (giou_M * counted_M).sum(), giou_M.new_full((), images)])
    count, right, giou, images_ = all_gather(own_4, process_group).sum(0).unbind()
    return {
        "boxes_an_image": count / images_.clamp(min=1),
        "token_accuracy": right / count.clamp(min=1),
        "giou_of_matched": giou / count.clamp(min=1),
    }
