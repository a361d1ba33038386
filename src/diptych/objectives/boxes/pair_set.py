"""The set-prediction loss of pair detectors (QPIC, RLIP, RLIPv2): match the queries of every decoder layer with the true pairs, then

    1 (CE_s + CE_o)  +  1 L_relation  +  2.5 (L1_s / n + L1_o / m)  +  1 ((1 - GIoU_s) / n + (1 - GIoU_o) / m)     summed over layers

CE          softmax cross-entropy over C entity names; the background (the last) is weighted 0.1, unmatched queries aim at it, and
            the sum is divided by the sum of the weights
L_relation  focal loss over all queries and names, divided by the number of positive targets; unmatched queries aim at 0
n, m        matched pairs, and those of them whose object exists: V-COCO's "a person walks" has none

Every divisor is summed over all processes (counts are at least 1), so that the average of the processes' gradients is the gradient
of one process that holds the whole batch. The released code does so for n alone, and adds 1e-4 to m (`divisors="process"`).

What implementations get wrong: a loop over images and layers that starts a hundred small kernels; a quality that carries a gradient
into the boxes; 0 * NaN from the zero box of an object that does not exist, or from a predicted box without area (the release stops
with NaN; here its IoU is 0 and the loss goes on); a batch without a single pair that leaves the box
heads without a gradient, which stops data-parallel training (here it is zero).

Letters as in `data.graphs.pairs`; M matched pairs of all images and layers together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.graphs.pairs import PairPredictions, PairTargets
from diptych.objectives.boxes.boxes import giou_loss, l1_loss, xyxy_from_cxcywh
from diptych.objectives.boxes.focal import corner_focal, quality_focal
from diptych.objectives.boxes.matching import CostFunction, Missing, PairCost, assign, to_device
from diptych.objectives.boxes.pair_tensors import check_fit, wide
from diptych.objectives.boxes.relation_quality import label_similarity, pair_quality, pseudo_labels
from diptych.objectives.gather import Group, all_gather, mean_over_processes, world

CHOICES = {
    "focal": ("quality", "corner"),
    "matching": ("layer", "last", "given"),
    "missing": ("left_out", "zero_box"),
    "divisors": ("global", "process"),
    "unlabelled": ("negative", "left_out"),
}


@dataclass(frozen=True, slots=True)
class PairSetLoss:
    """The loss of a pair detector; defaults are RLIPv2's. Made once, called with predictions and targets.

    label, relation, box, giou   weights of the four terms
    background   weight of the background in the entities' cross-entropy
    focal        "quality" takes soft targets as probabilities to reach; "corner" is the released form without quality labels
    gamma        exponent of the focal factor
    quality      multiply the relations of a matched query by how well its boxes lie; False is released for V-COCO. Of a pair without an
                 object it is the subject's box alone: the release reads it off the costs of its matching, where such a pair's overlap with
                 a box of zeros is among them
    pseudo       share of the highest similarity above which a similar name earns part of a target; None: no pseudo-labels
    matching     "layer" matches each decoder layer by its own predictions; "last" takes the last layer's match for all;
                 "given": query g answers for pair g, as its region was given; other queries are padding and cost nothing
    subjects     name subjects in the loss and in the default cost; False is the release without subject classes, for data whose
                 subjects are all people
    missing      what an object that does not exist costs in the default cost: "left_out", or "zero_box" as released
    divisors     "global" counts over all processes, "process" as released
    unlabelled   what a true pair without any relation says of relations: "negative", that it has none, as released; "left_out", nothing,
                 for labels that miss many (its boxes and names still count)
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
    subjects: bool = True
    missing: Missing = "left_out"
    divisors: Literal["global", "process"] = "global"
    unlabelled: Literal["negative", "left_out"] = "negative"

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
        cost: CostFunction | None = None,
        process_group: Group = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(terms, parts). What is minimised is the sum of `terms`: labels, relations, boxes, giou, each weighted and summed over
        layers.

        relation_text_RD   features of the relation names before any fusion; pseudo-labels need them
        cost               what is matched by; None: `PairCost`
        parts              of the last layer, detached, over all processes: pairs (matched, an image), label_accuracy (subject and
                           object named right; without `subjects` the object), relation_accuracy (of pairs with a relation: a true one is
                           likelier than all others), quality (of the boxes)

        With several processes each brings its own images and all call together; their counts of images and names may differ.
        """
        check_fit(predictions, targets)
        predictions = wide(predictions)
        matched = MatchedPairs.of(predictions, targets, self._match_on_host(predictions, targets, cost))
        quality_M = matched.quality()
        goal_MR = self._goals(matched, quality_M, relation_text_RD)

        subject_S, subject_weight_S = self._entities(predictions.subject_logit_BSQC, matched.subject_label_M, matched)
        object_S, object_weight_S = self._entities(predictions.object_logit_BSQC, matched.object_label_M, matched)
        relation_S, positive_S = self._relations(predictions.relation_logit_BSQR, goal_MR, matched)
        pairs_S, exist_S = matched.counts(positive_S)
        counts_5S = torch.stack([subject_weight_S, object_weight_S, positive_S, exist_S, pairs_S])
        per_subject_S, per_object_S, per_positive_S, per_exist_S, per_pair_S = self._divisors(counts_5S, process_group)
        named_S = object_S / per_object_S + (subject_S / per_subject_S if self.subjects else 0)
        l1, giou = matched.box_losses(per_pair_S, per_exist_S)
        terms = {
            "labels": self.label * named_S.sum(),
            "relations": self.relation * (relation_S / per_positive_S).sum(),
            "boxes": self.box * l1,
            "giou": self.giou * giou,
        }
        means = mean_over_processes(torch.stack(list(terms.values())), process_group)
        return dict(zip(terms, means.unbind(), strict=True)), _parts(
            predictions, matched, quality_M, self.subjects, process_group
        )

    def match(self, predictions: PairPredictions, targets: PairTargets, cost: CostFunction | None = None) -> Tensor:
        """query_BSG: the query of each true pair after each decoder layer, -1 for none. `cost` is as in the call."""
        return to_device(self._match_on_host(predictions, targets, cost), predictions.subject_box_BSQ4.device)

    def _match_on_host(self, predictions: PairPredictions, targets: PairTargets, cost: CostFunction | None) -> Tensor:
        layers, queries = predictions.subject_box_BSQ4.shape[1:3]
        if self.matching == "given":
            valid_BG = targets.valid_BG.cpu()
            if queries < valid_BG.shape[1]:
                raise ShapeError(f"{valid_BG.shape[1]} pairs were given but predictions have {queries} queries")
            own_G = torch.arange(valid_BG.shape[1], device=valid_BG.device)
            return own_G.where(valid_BG, -1)[:, None].expand(-1, layers, -1)
        judged = predictions.layers(-1) if self.matching == "last" else predictions
        price = PairCost(subjects=self.subjects, missing=self.missing) if cost is None else cost
        return assign(price(judged, targets), targets.valid_BG[:, None], on_host=True).expand(-1, layers, -1)

    def _goals(self, matched: MatchedPairs, quality_M: Tensor, relation_text_RD: Tensor | None) -> Tensor:
        """goal_MR: what the relation probabilities of matched queries should be."""
        goal_MR = matched.relation_MR
        if self.pseudo is not None:
            if relation_text_RD is None or len(relation_text_RD) != goal_MR.shape[1]:
                got = "none" if relation_text_RD is None else str(list(relation_text_RD.shape))
                raise ShapeError(f"pseudo-labels need text features [{goal_MR.shape[1]}, D] of the relation names, got {got}")
            goal_MR = pseudo_labels(goal_MR, label_similarity(relation_text_RD).to(goal_MR), threshold=self.pseudo)
        return goal_MR * quality_M[:, None] if self.quality else goal_MR

    def _entities(self, logit_BSQC: Tensor, label_M: Tensor, matched: MatchedPairs) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropies and weights of every layer, each summed over images and queries."""
        background = logit_BSQC.shape[-1] - 1
        label_BSQ = logit_BSQC.new_full(logit_BSQC.shape[:-1], background, dtype=torch.int64)
        label_BSQ[matched.query] = label_M
        weight_BSQ = torch.ones_like(logit_BSQC[..., 0]).masked_fill(label_BSQ == background, self.background)
        if self.matching == "given":
            weight_BSQ = weight_BSQ * matched.among(weight_BSQ)
        loss_BSQ = F.cross_entropy(logit_BSQC.flatten(0, 2), label_BSQ.flatten(), reduction="none").view_as(weight_BSQ)
        return (loss_BSQ * weight_BSQ).sum((0, 2)), weight_BSQ.sum((0, 2))

    def _relations(self, logit_BSQR: Tensor, goal_MR: Tensor, matched: MatchedPairs) -> tuple[Tensor, Tensor]:
        """Focal losses and counts of positive targets of every layer, each summed over images, queries and names."""
        goal_BSQR = torch.zeros_like(logit_BSQR)
        goal_BSQR[matched.query] = goal_MR
        focal = quality_focal if self.focal == "quality" else corner_focal
        positive_BSQR = goal_BSQR > 0 if self.focal == "quality" else goal_BSQR == 1
        loss_BSQ = focal(logit_BSQR, goal_BSQR, gamma=self.gamma).sum(-1)
        if self.matching == "given":
            loss_BSQ = loss_BSQ * matched.among(loss_BSQ)
        if self.unlabelled == "left_out":
            labelled_BSQ = torch.ones_like(loss_BSQ)
            labelled_BSQ[matched.query] = matched.relation_MR.amax(-1).to(loss_BSQ)
            loss_BSQ = loss_BSQ * labelled_BSQ
        return loss_BSQ.sum((0, 2)), positive_BSQR.sum((0, 2, 3)).to(logit_BSQR)

    def _divisors(self, counts_5S: Tensor, process_group: Group) -> Tensor:
        """Weights of subjects and objects, positives, existing objects, pairs: the mean of these counts over processes, by which each
        divides its own sum, so that the mean of the quotients is the quotient of the totals."""
        mean_5S = all_gather(counts_5S, process_group).mean(0)
        tiny = torch.finfo(counts_5S.dtype).tiny
        if self.divisors == "process":
            weights_2S, positive_S, exist_S = counts_5S[:2].clamp(min=tiny), counts_5S[2:3].clamp(min=1), counts_5S[3:4] + 1e-4
            return torch.cat([weights_2S, positive_S, exist_S, mean_5S[4:].clamp(min=1)])
        least = 1 / world(process_group)[1]  # one positive, one object and one pair in all
        return torch.cat([mean_5S[:2].clamp(min=tiny), mean_5S[2:].clamp(min=least)])


@dataclass(frozen=True, slots=True)
class MatchedPairs:
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
    def of(cls, predictions: PairPredictions, targets: PairTargets, query_BSG: Tensor) -> MatchedPairs:
        like = predictions.relation_logit_BSQR
        rows = (query_BSG >= 0).nonzero(as_tuple=True)
        moved = to_device(torch.stack([*rows, query_BSG[rows]]), like.device) if query_BSG.device != like.device else None
        image_M, layer_M, pair_M, query_M = (*rows, query_BSG[rows]) if moved is None else moved.unbind()
        query, true = (image_M, layer_M, query_M), (image_M, pair_M)
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

    def counts(self, like_S: Tensor) -> tuple[Tensor, Tensor]:
        """pairs_S and exist_S: how many pairs each layer answers for, and how many of them have an object."""
        layer_M = self.query[1]
        pairs_S = like_S.new_zeros(like_S.shape).index_add(0, layer_M, like_S.new_ones(len(layer_M)))
        if self.has_object_M is None:
            return pairs_S, pairs_S
        return pairs_S, like_S.new_zeros(like_S.shape).index_add(0, layer_M, self.has_object_M.to(like_S))

    def box_losses(self, per_pair_S: Tensor, per_exist_S: Tensor) -> tuple[Tensor, Tensor]:
        """(L1, 1 - GIoU), each summed over subjects and over the objects that exist, divided by these counts per layer."""
        if self.has_object_M is not None and self.has_object_M.device.type != "cpu":
            return self._box_losses_of_all(self.has_object_M, per_pair_S, per_exist_S)
        kept, layer_M = slice(None) if self.has_object_M is None else self.has_object_M, self.query[1]
        box_M4 = torch.cat([self.subject_box_M4, self.object_box_M4[kept]])
        true_M4 = torch.cat([self.true_subject_box_M4, self.true_object_box_M4[kept]])
        divisor_M = torch.cat([per_pair_S[layer_M], per_exist_S[layer_M[kept]]])
        giou_M = giou_loss(xyxy_from_cxcywh(box_M4), xyxy_from_cxcywh(true_M4))
        return (l1_loss(box_M4, true_M4) / divisor_M).sum(), (giou_M / divisor_M).sum()

    def _box_losses_of_all(self, there_M: Tensor, per_pair_S: Tensor, per_exist_S: Tensor) -> tuple[Tensor, Tensor]:
        """The same on a GPU, where the host would wait to count objects that exist: the others have one box on both sides and no share."""
        layer_M, there_M1 = self.query[1], there_M[:, None]
        box_M4 = torch.cat([self.subject_box_M4, self.object_box_M4.where(there_M1, 0.5)])
        true_M4 = torch.cat([self.true_subject_box_M4, self.true_object_box_M4.where(there_M1, 0.5)])
        exist_M = there_M.to(per_exist_S) / per_exist_S[layer_M]
        share_M = torch.cat([1 / per_pair_S[layer_M], exist_M])
        giou_M = giou_loss(xyxy_from_cxcywh(box_M4), xyxy_from_cxcywh(true_M4))
        return (l1_loss(box_M4, true_M4) * share_M).sum(), (giou_M * share_M).sum()


@torch.no_grad()
def _parts(
    predictions: PairPredictions, matched: MatchedPairs, quality_M: Tensor, subjects: bool, process_group: Group
) -> dict[str, Tensor]:
    """Means over the matched pairs of the last layer, of all processes."""
    images, layers = predictions.subject_box_BSQ4.shape[:2]
    last_M = matched.query[1] == layers - 1
    subject_M = predictions.subject_logit_BSQC[matched.query].argmax(-1) == matched.subject_label_M
    object_M = predictions.object_logit_BSQC[matched.query].argmax(-1) == matched.object_label_M
    relation_MR = F.pad(predictions.relation_logit_BSQR[matched.query], (0, 1), value=-torch.inf)  # the list may be empty
    true_MR = F.pad(matched.relation_MR > 0, (0, 1))
    relation_M = relation_MR.where(true_MR, -torch.inf).amax(-1) > relation_MR.where(~true_MR, -torch.inf).amax(-1)
    named_M = subject_M & object_M if subjects else object_M
    facts_5M = torch.stack(
        [quality_M, *(x.to(quality_M) for x in (named_M, relation_M, true_MR.any(-1), torch.ones_like(last_M)))]
    )
    on_host = last_M.device.type == "cpu"
    facts_5 = facts_5M[:, last_M].sum(1) if on_host else facts_5M.where(last_M, 0).sum(1)
    own_6 = torch.cat([facts_5, quality_M.new_full((1,), images)])
    quality, labels, relations, labelled, pairs, images_ = all_gather(own_6, process_group).sum(0).unbind()
    return {
        "pairs": pairs / images_.clamp(min=1),
        "label_accuracy": labels / pairs.clamp(min=1),
        "relation_accuracy": relations / labelled.clamp(min=1),
        "quality": quality / pairs.clamp(min=1),
    }
