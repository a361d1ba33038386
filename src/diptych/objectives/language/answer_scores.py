"""Answers of a fixed list, each worth something: the sum over answers of binary cross-entropies (VQA).  Letters: B questions, K answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, mean_over_processes


def answer_scores(logit_BK: Tensor, target_BK: Tensor, there_B: Tensor, *, process_group: Group = None) -> Tensor:
    """Mean over the questions of the global batch; rows where `there_B` is False have none. Zero without any question."""
    if logit_BK.shape != target_BK.shape or there_B.shape != logit_BK.shape[:1]:
        raise ShapeError(
            f"logits and targets must be [B, K], there [B], got {list(logit_BK.shape)}, {list(target_BK.shape)} and {list(there_B.shape)}"
        )
    wide = torch.promote_types(logit_BK.dtype, torch.float32)
    loss_B = F.binary_cross_entropy_with_logits(logit_BK.to(wide), target_BK.to(wide), reduction="none").sum(1)
    count = mean_over_processes(there_B.sum().to(loss_B), process_group)
    return mean_over_processes((loss_B * there_B).sum(), process_group) / count.clamp(min=torch.finfo(count.dtype).tiny)
