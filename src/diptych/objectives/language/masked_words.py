"""Masked language modelling: cross-entropy with the word, or with another model's prediction.  Letters: N texts, M places, V vocabulary.

The mean is over the masked positions of the global batch, not over texts: a text with three hidden words counts thrice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes


def masked_words(logit_NMV: Tensor, word_NM: Tensor, *, ignore_index: int = -1, process_group: Group = None) -> Tensor:
    """Mean cross-entropy; positions whose word is `ignore_index` are left out. Zero without any masked word."""
    _check(logit_NMV, word_NM)
    asked_NM = word_NM != ignore_index
    nll_NM = -_wide(logit_NMV).log_softmax(-1).gather(-1, word_NM.where(asked_NM, 0)[..., None]).squeeze(-1)
    return _mean(nll_NM, asked_NM, process_group)


def masked_distillation(
    logit_NMV: Tensor,
    teacher_NMV: Tensor,
    *,
    mask_NM: Tensor | None = None,
    student_tau: float = 1.0,
    teacher_tau: float = 1.0,
    process_group: Group = None,
) -> Tensor:
    """Mean of -sum_v softmax(teacher / teacher_tau)_v log softmax(student / student_tau)_v. The teacher has no gradient.

    mask_NM  bool, False leaves a place out; None: all count
    """
    if mask_NM is None:
        mask_NM = torch.ones(logit_NMV.shape[:2], dtype=torch.bool, device=logit_NMV.device)
    _check(logit_NMV, mask_NM)
    if teacher_NMV.shape != logit_NMV.shape:
        raise ShapeError(f"the teacher must answer {list(logit_NMV.shape)} as the student does, got {list(teacher_NMV.shape)}")
    if student_tau <= 0 or teacher_tau <= 0:
        raise ConfigError(f"temperatures are {student_tau} and {teacher_tau} (expected above 0)")
    share_NMV = (_wide(teacher_NMV.detach()) / teacher_tau).softmax(-1)
    return _mean(-(share_NMV * (_wide(logit_NMV) / student_tau).log_softmax(-1)).sum(-1), mask_NM, process_group)


def _mean(value_NM: Tensor, asked_NM: Tensor, process_group: Group) -> Tensor:
    count = mean_over_processes(asked_NM.sum().to(value_NM), process_group)
    return mean_over_processes(value_NM.masked_fill(~asked_NM, 0).sum(), process_group) / count.clamp_min(
        torch.finfo(count.dtype).tiny
    )


def _check(logit_NMV: Tensor, word_NM: Tensor) -> None:
    if logit_NMV.ndim != 3 or logit_NMV.shape[:2] != word_NM.shape:
        raise ShapeError(
            f"logits must be [N, M, V] for words or a mask [N, M], got {list(logit_NMV.shape)} for {list(word_NM.shape)}"
        )


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
