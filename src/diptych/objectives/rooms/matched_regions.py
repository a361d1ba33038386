"""Losses between phrases and proposals of rooms: multi-positive contrast, and soft choice of a proposal (2411.18666, 1912.08830).

Letters: N rows, C columns, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matched_contrast(row_ND: Tensor, column_CD: Tensor, positive_NC: Tensor, open_NC: Tensor, *, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE with several positives, which share the target evenly; with one it is that of `info_nce` over the open cells.

    row_ND, column_CD  unit-norm features
    positive_NC, open_NC  bool; a cell that is not open is in no sum
    The mean runs over rows with a positive, and over columns with one; without any the loss is 0. As `target_contrast`, but for cells of
    one process, and without a look at values.
    """
    logit_NC = (scale * row_ND @ column_CD.T).masked_fill(~open_NC, -torch.inf)
    positive_NC = positive_NC & open_NC
    return (shared_nll(logit_NC, positive_NC) + shared_nll(logit_NC.T, positive_NC.T)) / 2


def shared_nll(logit_NC: Tensor, target_NC: Tensor) -> Tensor:
    """Cross-entropy of rows with targets of any weights, scaled to a sum of 1; the mean over rows that have a target, 0 without any.

    Logits may be -inf where the target is 0.
    """
    target_NC = target_NC.to(logit_NC)
    total_N1 = target_NC.sum(1, keepdim=True)
    there_N = total_N1[:, 0] > 0
    share_NC = target_NC / total_N1.clamp_min(torch.finfo(logit_NC.dtype).tiny)
    safe_NC = logit_NC.where(there_N[:, None], torch.zeros_like(logit_NC))  # rows without a target may be -inf alone
    log_NC = safe_NC.log_softmax(1).masked_fill(target_NC <= 0, 0)
    return -(share_NC * log_NC).sum() / there_N.sum().clamp_min(1)
