"""Losses of symbolic goal learning (Xu et al., 2022, arXiv 2202.12912): goal classification, graded sentence similarity, and box
categories, affordances, attributes and relations.

Letters: B batch, K classes, D width, R boxes of an image, A abilities, P predicates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.data.planning.goals import HIGHEST, PARTLY, SAME, SAME_TASK


def goal_cross_entropy(predicate_BK: Tensor, subject_BK: Tensor, object_BK: Tensor, target_B3: Tensor) -> Tensor:
    """Sum of three cross-entropies (predicate, subject, object), each averaged over the batch.

    target_B3  int64: the classes of predicate, subject and object
    """
    parts = (predicate_BK, subject_BK, object_BK)
    losses = [F.cross_entropy(logit_BK, target_B3[:, part]) for part, logit_BK in enumerate(parts)]
    return torch.stack(losses).sum()


def similarity_grades(named_B3: Tensor) -> Tensor:
    """Graded similarity of sentences, [B, B]: 5 for the same subject and object, 3.3 for one of them, 1.7 for only the same
    predicate, 0 otherwise.

    named_B3  int64: classes of predicate, subject and object, -1 if the sentence does not specify it
    """
    same_BB3 = (named_B3[:, None] == named_B3[None]) & (named_B3[None] >= 0)
    task_BB, subject_BB, object_BB = same_BB3.unbind(-1)
    grade_BB = SAME_TASK * task_BB.float()
    grade_BB = grade_BB.masked_fill(subject_BB | object_BB, PARTLY)
    return grade_BB.masked_fill(subject_BB & object_BB, SAME)


def graded_similarity_loss(sentence_BD: Tensor, grade_BB: Tensor) -> Tensor:
    """Mean squared difference between sentence cosines and grades divided by 5, over all pairs of the batch with a grade above 0;
    0 if there are none. The diagonal is ignored."""
    unit_BD = F.normalize(sentence_BD, dim=1)
    counted_BB = torch.triu(grade_BB > 0, diagonal=1)
    difference_BB = unit_BD @ unit_BD.T - grade_BB.to(unit_BD.dtype) / HIGHEST
    return (difference_BB.square() * counted_BB).sum() / counted_BB.sum().clamp(min=1)


def box_losses(
    category_BRK: Tensor,
    ability_BRA: Tensor,
    relation_BRRP: Tensor,
    category_BR: Tensor,
    able_BRA: Tensor,
    relation_BRR: Tensor,
) -> dict[str, Tensor]:
    """Cross-entropy of the category of each box and of the relation of each ordered pair of boxes (class 0: none), and binary
    cross-entropy of affordances and attributes; means over the existing boxes and pairs.

    category_BR   int64, -1 where there is no box
    able_BRA      bool
    relation_BRR  int64, -1 where there is no pair
    """
    exists_BR = category_BR >= 0
    losses = {
        "categories": _mean_cross_entropy(category_BRK, category_BR),
        "relations": _mean_cross_entropy(relation_BRRP, relation_BRR),
    }
    each_BRA = F.binary_cross_entropy_with_logits(ability_BRA, able_BRA.to(ability_BRA.dtype), reduction="none")
    each_BR = each_BRA.mean(-1)
    return {**losses, "abilities": (each_BR * exists_BR).sum() / exists_BR.sum().clamp(min=1)}


def _mean_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over positions whose target is not -1; 0 if there are none."""
    total = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)
