"""The set-prediction loss of pair detectors (QPIC, RLIP, RLIPv2): match the queries of every decoder layer with the true pairs, then

    1 (CE_s + CE_o)  +  1 L_relation  +  2.5 (L1_s + L1_o) / n  +  1 ((1 - GIoU_s) + (1 - GIoU_o)) / n        summed over layers

CE          softmax cross-entropy over C entity names; the background (the last) is weighted 0.1, unmatched queries aim at it, and
            the sum is divided by the sum of the weights
L_relation  focal loss over all queries and names, divided by the number of positive targets; unmatched queries aim at 0
n           matched pairs

Every divisor is summed over all processes (counts are at least 1), so that the average of the processes' gradients is the gradient
of one process that holds the whole batch. The released code does so for n alone (`divisors="process"`).

What implementations get wrong: a loop over images and layers that starts a hundred small kernels; a quality that carries a gradient
into the boxes; 0 * NaN from the zero box of an object that does not exist; a batch without a single pair that leaves the box
heads without a gradient, which stops data-parallel training (here it is zero).

Letters as in `pair_tensors`; M matched pairs of all images and layers together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.boxes import giou_loss, l1_loss, xyxy_from_cxcywh
from diptych.objectives.focal import corner_focal, quality_focal
from diptych.objectives.gather import Group, all_gather, mean_over_processes, world
from diptych.objectives.matching import CostFunction, PairCost, assign
from diptych.objectives.pair_tensors import PairPredictions, PairTargets, check_fit
from diptych.objectives.relation_quality import label_similarity, pair_quality, pseudo_labels

CHOICES = {"focal": ("quality", "corner"), "matching": ("layer", "last", "given"), "divisors": ("global", "process")}


@dataclass(frozen=True, slots=True)
class PairSetLoss:
    """The loss of a pair detector; defaults are RLIPv2's. Made once, called with predictions and targets.

    label, relation, box, giou   weights of the four terms
    background   weight of the background in the entities' cross-entropy
    focal        "quality" takes soft targets as probabilities to reach; "corner" is the released form without quality labels
    gamma        exponent of the focal factor
    quality      multiply the relations of a matched query by how well its boxes lie; False is released for V-COCO
    pseudo       share of the highest similarity above which a similar name earns part of a target; None: no pseudo-labels
    matching     "layer" matches each decoder layer by its own predictions; "last" takes the last layer's match for all;
                 "given": query g answers for pair g, as its region was given; other queries are padding and cost nothing
    cost         what is matched by
    divisors     "global" counts over all processes, "process" as released
    """

    label: float = 1.0
    relation: float = 1.0
    box: float = 2.5
    giou: float = 1.0
    background: float = 0.1
    focal: Literal["quality", "corner"] = "quality"
    gamma: float = 2.0
    quality: bool = True
    pseudo: float | None = 0.3
    matching: Literal["layer", "last", "given"] = "layer"
    cost: CostFunction = field(default_factory=PairCost)
    divisors: Literal["global", "process"] = "global"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"PairSetLoss.{name} is {getattr(self, name)!r} (expected {' | '.join(allowed)})")
        if self.pseudo is not None and not 0 <= self.pseudo <= 1:
            raise ConfigError(f"PairSetLoss.pseudo is {self.pseudo} (expected a share in 0..1, or none)")

    def __call__(
        self,
        predictions: PairPredictions,
        targets: PairTargets,
        *,
        relation_text_RD: Tensor | None = None,
        process_group: Group = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(terms, parts). What is minimised is the sum of `terms`: labels, relations, boxes, giou, each weighted and summed over
        layers.

        relation_text_RD   features of the relation names before any fusion; pseudo-labels need them
        parts              of the last layer, detached, over all processes: pairs (matched, an image), label_accuracy (subject and
                           object named right), relation_accuracy (a true relation is likelier than all others), quality (of the boxes)

        With several processes each brings its own images and all call together; their numbers of images and names may differ.
        """
        check_fit(predictions, targets)
        predictions = predictions.wide()
        matched = Matched.of(predictions, targets, self.match(predictions, targets))
        quality_M = matched.quality()
        goal_MR = self._goals(matched, quality_M, relation_text_RD)

        subject_S, subject_weight_S = self._entities(predictions.subject_logit_BSQC, matched.subject_label_M, matched)
        object_S, object_weight_S = self._entities(predictions.object_logit_BSQC, matched.object_label_M, matched)
        relation_S, positive_S = self._relations(predictions.relation_logit_BSQR, goal_MR, matched)
        pairs_S = torch.full_like(positive_S, len(goal_MR) / len(positive_S))
        counts_4S = torch.stack([subject_weight_S, object_weight_S, positive_S, pairs_S])
        per_subject_S, per_object_S, per_positive_S, per_pair_S = self._divisors(counts_4S, process_group)
        l1, giou = matched.box_losses()
        terms = {
            "labels": self.label * (subject_S / per_subject_S + object_S / per_object_S).sum(),
            "relations": self.relation * (relation_S / per_positive_S).sum(),
            "boxes": self.box * l1 / per_pair_S[0],
            "giou": self.giou * giou / per_pair_S[0],
        }
        means = mean_over_processes(torch.stack(list(terms.values())), process_group)
        return dict(zip(terms, means.unbind(), strict=True)), _parts(predictions, matched, quality_M, process_group)

    def match(self, predictions: PairPredictions, targets: PairTargets) -> Tensor:
        """query_BSG: the query of each true pair after each decoder layer, -1 for none."""
        layers, queries = predictions.subject_box_BSQ4.shape[1:3]
        if self.matching == "given":
            valid_BG = targets.valid_BG
            if queries < valid_BG.shape[1]:
                raise ShapeError(f"{valid_BG.shape[1]} pairs were given but predictions have {queries} queries")
            own_G = torch.arange(valid_BG.shape[1], device=valid_BG.device)
            return own_G.where(valid_BG, -1)[:, None].expand(-1, layers, -1)
        judged = predictions.layers(-1) if self.matching == "last" else predictions
        return assign(self.cost(judged, targets), targets.valid_BG[:, None]).expand(-1, layers, -1)

    def _goals(self, matched: Matched, quality_M: Tensor, relation_text_RD: Tensor | None) -> Tensor:
        """goal_MR: what the relation probabilities of matched queries should be."""
        goal_MR = matched.relation_MR
        if self.pseudo is not None:
            if relation_text_RD is None or len(relation_text_RD) != goal_MR.shape[1]:
                got = "none" if relation_text_RD is None else str(list(relation_text_RD.shape))
                raise ShapeError(f"pseudo-labels need text features [{goal_MR.shape[1]}, D] of the relation names, got {got}")
            goal_MR = pseudo_labels(goal_MR, label_similarity(relation_text_RD).to(goal_MR), threshold=self.pseudo)
        return goal_MR * quality_M[:, None] if self.quality else goal_MR

    def _entities(self, logit_BSQC: Tensor, label_M: Tensor, matched: Matched) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropies and weights of every layer, each summed over images and queries."""
        background = logit_BSQC.shape[-1] - 1
        label_BSQ = logit_BSQC.new_full(logit_BSQC.shape[:-1], background, dtype=torch.int64)
        label_BSQ[matched.query] = label_M
        weight_BSQ = torch.ones_like(logit_BSQC[..., 0]).masked_fill(label_BSQ == background, self.background)
        if self.matching == "given":
            weight_BSQ = weight_BSQ * matched.among(weight_BSQ)
        loss_BSQ = F.cross_entropy(logit_BSQC.flatten(0, 2), label_BSQ.flatten(), reduction="none").view_as(weight_BSQ)
        return (loss_BSQ * weight_BSQ).sum((0, 2)), weight_BSQ.sum((0, 2))

    def _relations(self, logit_BSQR: Tensor, goal_MR: Tensor, matched: Matched) -> tuple[Tensor, Tensor]:
        """Focal losses and numbers of positive targets of every layer, each summed over images, queries and names."""
        goal_BSQR = torch.zeros_like(logit_BSQR)
        goal_BSQR[matched.query] = goal_MR
        focal = quality_focal if self.focal == "quality" else corner_focal
        positive_BSQR = goal_BSQR > 0 if self.focal == "quality" else goal_BSQR == 1
        loss_BSQ = focal(logit_BSQR, goal_BSQR, gamma=self.gamma).sum(-1)
        if self.matching == "given":
            loss_BSQ = loss_BSQ * matched.among(loss_BSQ)
        return loss_BSQ.sum((0, 2)), positive_BSQR.sum((0, 2, 3)).to(logit_BSQR)

    def _divisors(self, counts_4S: Tensor, process_group: Group) -> Tensor:
        """Weights of subjects and objects, positives, pairs: the mean of these counts over processes, by which each divides its own
        sum, so that the mean of the quotients is the quotient of the totals."""
        own = self.divisors == "process"
        mean_4S = all_gather(counts_4S, process_group).mean(0)
        divisor_4S = torch.cat([counts_4S[:3], mean_4S[3:]]) if own else mean_4S
        least = 1 if own else 1 / world(process_group)[1]  # one positive and one pair in all
        return torch.cat([divisor_4S[:2].clamp(min=torch.finfo(counts_4S.dtype).tiny), divisor_4S[2:].clamp(min=least)])


@dataclass(frozen=True, slots=True)
class Matched:
    """True pairs beside the predictions that answer for them, of all images and layers in one list.

    query          (image, layer, query) of each, to index [B, S, Q, ...] with
    has_object_M   None when every pair has an object
    """

    query: tuple[Tensor, Tensor, Tensor]
    subject_box_M4: Tensor
    object_box_M4: Tensor
    true_subject_box_M4: Tensor
    true_object_box_M4: Tensor
    subject_label_M: Tensor
    object_label_M: Tensor
    relation_MR: Tensor
    has_object_M: Tensor | None

    @classmethod
    def of(cls, predictions: PairPredictions, targets: PairTargets, query_BSG: Tensor) -> Matched:
        image_M, layer_M, pair_M = (query_BSG >= 0).nonzero(as_tuple=True)
        query = image_M, layer_M, query_BSG[image_M, layer_M, pair_M]
        true = image_M, pair_M
        like = predictions.relation_logit_BSQR
        return cls(
            query,
            predictions.subject_box_BSQ4[query],
            predictions.object_box_BSQ4[query],
            targets.subject_box_BG4[true].to(like),
            targets.object_box_BG4[true].to(like),
            targets.subject_label_BG[true],
            targets.object_label_BG[true],
            targets.relation_BGR[true].to(like),
            None if targets.has_object_BG is None else targets.has_object_BG[true],
        )

    def among(self, like_BSQ: Tensor) -> Tensor:
        """1 at queries that answer for a pair, 0 at all others."""
        mask_BSQ = torch.zeros_like(like_BSQ)
        mask_BSQ[self.query] = 1
        return mask_BSQ

    def quality(self) -> Tensor:
        """quality_M in [0, 1] of the boxes; no gradient."""
        boxes = self.subject_box_M4, self.true_subject_box_M4, self.object_box_M4, self.true_object_box_M4
        return pair_quality(*boxes, has_object_M=self.has_object_M)

    def box_losses(self) -> tuple[Tensor, Tensor]:
        """(sum of L1, sum of 1 - GIoU) over subjects and over the objects that exist."""
        kept = slice(None) if self.has_object_M is None else self.has_object_M
        box_M4 = torch.cat([self.subject_box_M4, self.object_box_M4[kept]])
        true_M4 = torch.cat([self.true_subject_box_M4, self.true_object_box_M4[kept]])
        return l1_loss(box_M4, true_M4).sum(), giou_loss(xyxy_from_cxcywh(box_M4), xyxy_from_cxcywh(true_M4)).sum()


@torch.no_grad()
def _parts(predictions: PairPredictions, matched: Matched, quality_M: Tensor, process_group: Group) -> dict[str, Tensor]:
    """Means over the matched pairs of the last layer, of all processes."""
    images, layers = predictions.subject_box_BSQ4.shape[:2]
    last_M = matched.query[1] == layers - 1
    subject_M = predictions.subject_logit_BSQC[matched.query].argmax(-1) == matched.subject_label_M
    object_M = predictions.object_logit_BSQC[matched.query].argmax(-1) == matched.object_label_M
    relation_MR = F.pad(predictions.relation_logit_BSQR[matched.query], (0, 1), value=-torch.inf)  # the list may be empty
    true_MR = F.pad(matched.relation_MR > 0, (0, 1))
    relation_M = relation_MR.where(true_MR, -torch.inf).amax(-1) > relation_MR.where(~true_MR, -torch.inf).amax(-1)
    facts_4M = torch.stack([quality_M, *(x.to(quality_M) for x in (subject_M & object_M, relation_M, torch.ones_like(last_M)))])
    own_5 = torch.cat([facts_4M[:, last_M].sum(1), quality_M.new_tensor([images])])
    quality, labels, relations, pairs, images_ = all_gather(own_5, process_group).sum(0).unbind()
    return {
        "pairs": pairs / images_.clamp(min=1),
        "label_accuracy": labels / pairs.clamp(min=1),
        "relation_accuracy": relations / pairs.clamp(min=1),
        "quality": quality / pairs.clamp(min=1),
    }
