"""Hungarian matching of queries to true pairs: the one-to-one assignment of least total cost, as in DETR.

    cost(q, g) = 1 (-p_s[q, label_s] - p_o[q, label_o])  +  1 verb(q, g)  +  2.5 max(L1_s, L1_o)  +  1 max(-GIoU_s, -GIoU_o)
    verb(q, g) = -1/2 [ p.y / (sum y + e) + (1 - p).(1 - y) / (sum (1 - y) + e) ],        e = 1e-4        (QPIC, 2103.05399; RLIP)

with p_s, p_o softmax over entity names, p sigmoid over relation names, y the multi-hot relations of g. Costs are tensors: add
your own term, or pass any other matrix to `assign`. All images and decoder layers are scored in one pass; only the assignment
itself loops over them (scipy), after a single copy to the host.

What implementations get wrong: a target offset that is wrong for later images once an image has more targets than queries; a
maximum over subject and object that includes the zero box of an object that does not exist (`missing`); L1 of boxes in pixels.

Letters as in `data.graphs.pairs`; X any leading shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.data.graphs.pairs import PairPredictions, PairTargets
from diptych.objectives.boxes.boxes import pairwise_giou, pairwise_l1, xyxy_from_cxcywh
from diptych.objectives.boxes.pair_tensors import at_least_float32, check_fit

CostFunction = Callable[[PairPredictions, PairTargets], Tensor]
"""Predictions and targets to cost_BSQG; `PairCost` is the published one."""

Missing = Literal["left_out", "zero_box"]
IMPOSSIBLE = 1e6
"""Replaces costs that are not finite, so that matching continues and the loss itself shows the problem."""


@torch.no_grad()
def assign(cost_XQG: Tensor, valid_XG: Tensor, *, on_host: bool = False) -> Tensor:
    """Index of the query of each target, query_XG, int64; -1 for padding and unmatched targets.

    cost_XQG [..., Q, G], valid_XG [..., G] (broadcast over leading axes; False on padding). Every query serves at most one target;
    if there are more targets than queries, the cheapest Q targets are matched.

    on_host  return the result in main memory, where the matching is done, so that using its indices there needs no further
             synchronisation with a GPU
    """
    lead, (queries, most) = cost_XQG.shape[:-2], cost_XQG.shape[-2:]
    if valid_XG.shape[-1:] != (most,):
        raise ShapeError(f"costs are for {most} targets but valid_XG has {list(valid_XG.shape)}")
    query_NG = np.full((lead.numel(), most), -1, np.int64)
    known_NQG = at_least_float32(cost_XQG).reshape(lead.numel(), queries, most).nan_to_num(IMPOSSIBLE, IMPOSSIBLE, IMPOSSIBLE)
    there_NG = valid_XG.expand(*lead, most).reshape(lead.numel(), most)
    if cost_XQG.device.type == "cpu" or not queries:
        cost_NQG, valid_NG = known_NQG.cpu().numpy(), there_NG.cpu().numpy()
    else:  # one copy to the host: padding is encoded as NaN
        cost_NQG = known_NQG.masked_fill(~there_NG[:, None], torch.nan).cpu().numpy()
        valid_NG = ~np.isnan(cost_NQG[:, 0])
    for n, (cost_QG, valid_G) in enumerate(zip(cost_NQG, valid_NG, strict=True)):
        chosen = np.flatnonzero(valid_G)
        if len(chosen):
            query, target = linear_sum_assignment(cost_QG[:, chosen])
            query_NG[n, chosen[target]] = query
    query_XG = torch.from_numpy(query_NG).reshape(*lead, most)
    return query_XG if on_host else to_device(query_XG, cost_XQG.device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a CPU tensor to a device; to CUDA asynchronously from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def label_cost(logit_XQC: Tensor, label_XG: Tensor) -> Tensor:
    """cost_XQG: minus the softmax probability of each target's label."""
    p_XQC = at_least_float32(logit_XQC).softmax(-1)
    index_XQG = label_XG[..., None, :].expand(*p_XQC.shape[:-1], label_XG.shape[-1])
    return -p_XQC.gather(-1, index_XQG)


def relation_cost(logit_XQR: Tensor, relation_XGR: Tensor) -> Tensor:
    """cost_XQG in [-1, 0]: half the mean probability of the true relations, half the mean rejection of the others, negated."""
    p_XQR = at_least_float32(logit_XQR).sigmoid()
    yes_XGR = relation_XGR.to(p_XQR)
    no_XGR = 1 - yes_XGR
    found_XQG = p_XQR @ (yes_XGR / (yes_XGR.sum(-1, keepdim=True) + 1e-4)).mT
    refused_XQG = (1 - p_XQR) @ (no_XGR / (no_XGR.sum(-1, keepdim=True) + 1e-4)).mT
    return -(found_XQG + refused_XQG) / 2


@dataclass(frozen=True, slots=True)
class PairCost:
    """The published cost of a query for a pair; the fields are its weights. Called with predictions and targets.

    subjects   names of subjects count too; False is the release without subject classes
    missing    what an object that does not exist costs. "left_out": nothing, the subject alone counts. "zero_box", as released: no L1,
               but -GIoU_s - GIoU(predicted object, a box of zeros), so that queries whose object lies far from the corner cost more
    """

    label: float = 1.0
    relation: float = 1.0
    box: float = 2.5
    giou: float = 1.0
    subjects: bool = True
    missing: Missing = "left_out"

    @torch.no_grad()
    def __call__(self, predictions: PairPredictions, targets: PairTargets) -> Tensor:
        """cost_BSQG."""
        check_fit(predictions, targets)
        label_BSQG = label_cost(predictions.object_logit_BSQC, targets.object_label_BG[:, None])
        if self.subjects:
            label_BSQG = label_cost(predictions.subject_logit_BSQC, targets.subject_label_BG[:, None]) + label_BSQG
        relation_BSQG = relation_cost(predictions.relation_logit_BSQR, targets.relation_BGR[:, None])
        l1_BSQG, giou_BSQG = (torch.maximum(*self._both(kind, predictions, targets)) for kind in (pairwise_l1, _minus_giou))
        return self.label * label_BSQG + self.relation * relation_BSQG + self.box * l1_BSQG + self.giou * giou_BSQG

    def _both(
        self, kind: Callable[[Tensor, Tensor], Tensor], predictions: PairPredictions, targets: PairTargets
    ) -> tuple[Tensor, Tensor]:
        subject_BSQ4, object_BSQ4 = (at_least_float32(x) for x in (predictions.subject_box_BSQ4, predictions.object_box_BSQ4))
        subject_BSQG = kind(subject_BSQ4, targets.subject_box_BG4[:, None].to(subject_BSQ4))
        object_BSQG = kind(object_BSQ4, targets.object_box_BG4[:, None].to(object_BSQ4))
        if targets.has_object_BG is not None:
            without_BSQG = subject_BSQG
            if self.missing == "zero_box" and kind is _minus_giou:
                zero_14 = torch.zeros_like(object_BSQ4[..., :1, :])
                without_BSQG = subject_BSQG + kind(object_BSQ4, zero_14)
            object_BSQG = torch.where(targets.has_object_BG[:, None, None], object_BSQG, without_BSQG)
        return subject_BSQG, object_BSQG


def _minus_giou(one_XQ4: Tensor, two_XG4: Tensor) -> Tensor:
    return -pairwise_giou(xyxy_from_cxcywh(one_XQ4), xyxy_from_cxcywh(two_XG4))
