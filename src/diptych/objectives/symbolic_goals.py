"""Losses of symbolic goal learning (Xu et al., 2022, arXiv 2202.12912): the goal's three parts, graded similarity of sentences, and what
boxes are and how they go together.

Letters: B batch, K classes, D width, R boxes of an image, A abilities, P predicates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.data.planning.goals import HIGHEST, PARTLY, SAME, SAME_TASK


def goal_cross_entropy(predicate_BK: Tensor, subject_BK: Tensor, object_BK: Tensor, target_B3: Tensor) -> Tensor:
    """The sum of three cross-entropies, each the mean over the batch.

    target_B3  int64: the classes of predicate, subject and object
    """
    parts = (predicate_BK, subject_BK, object_BK)
    losses = [F.cross_entropy(logit_BK, target_B3[:, part]) for part, logit_BK in enumerate(parts)]
    return torch.stack(losses).sum()


def similarity_grades(named_B3: Tensor) -> Tensor:
    """[B, B] graded similarity of sentences by what they name: 5 for the same subject and object, 3.3 for one of them, 1.7 for the same
    predicate alone, 0 for nothing.

    named_B3  int64: classes of predicate, subject and object, -1 for what a sentence leaves open
    """
    same_BB3 = (named_B3[:, None] == named_B3[None]) & (named_B3[None] >= 0)
    task_BB, subject_BB, object_BB = same_BB3.unbind(-1)
    grade_BB = SAME_TASK * task_BB.float()
    grade_BB = grade_BB.masked_fill(subject_BB | object_BB, PARTLY)
    return grade_BB.masked_fill(subject_BB & object_BB, SAME)


def graded_similarity_loss(sentence_BD: Tensor, grade_BB: Tensor) -> Tensor:
    """The mean squared difference between cosines of sentences and a fifth of their grades, over all pairs of the batch that have a grade
    above 0; 0 where there is none. The diagonal is not read."""
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
    cross-entropy of affordances and attributes; means over boxes, and over pairs, that are there.

    category_BR   int64, -1 where no box is
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
    """Over places whose target is not -1; 0 without any."""
    total = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp(min=1)
