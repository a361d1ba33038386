"""Losses of findings and places in three states: present (1), absent (0), not mentioned (-1) (MeDSLIP, 2403.10635).

Each is a mean over what is stated in the global batch, and 0 where nothing is.

Letters: B batch, A places, K findings, N negatives, Q queries of one side, R names of the other, E width of the books.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, mean_over_processes


def stated(matrix_BQR: Tensor) -> Tensor:
    """int64 [B, Q]: 1 where any of a row is present, else 0 where any is absent, else -1."""
    present_BQ, absent_BQ = (matrix_BQR == 1).any(-1), (matrix_BQR == 0).any(-1)
    return present_BQ.long() - (~present_BQ & ~absent_BQ).long()


def status_loss(logit_BQ2: Tensor, label_BQ: Tensor, *, process_group: Group = None) -> Tensor:
    """Cross-entropy of absent (0) and present (1); any other label is left out."""
    if logit_BQ2.shape != (*label_BQ.shape, 2):
        raise ShapeError(f"logits must be {[*label_BQ.shape, 2]}, got {list(logit_BQ2.shape)}")
    counted_BQ = (label_BQ == 0) | (label_BQ == 1)
    nll_BQ = -logit_BQ2.float().log_softmax(-1).gather(-1, label_BQ.where(counted_BQ, 0)[..., None]).squeeze(-1)
    return _mean(nll_BQ, counted_BQ, process_group)


def pair_loss(logit_BAK: Tensor, matrix_BAK: Tensor, *, process_group: Group = None) -> Tensor:
    """Binary cross-entropy of each finding at each place that is stated."""
    if logit_BAK.shape != matrix_BAK.shape:
        raise ShapeError(f"logits must be {list(matrix_BAK.shape)}, got {list(logit_BAK.shape)}")
    counted_BAK = matrix_BAK >= 0
    target_BAK = matrix_BAK.clamp(min=0).to(torch.float32)
    bce_BAK = F.binary_cross_entropy_with_logits(logit_BAK.float(), target_BAK, reduction="none")
    return _mean(bce_BAK, counted_BAK, process_group)


def prototype_loss(
    query_BQE: Tensor, book_RE: Tensor, present_BQR: Tensor, negative_BQN: Tensor, *, process_group: Group = None
) -> Tensor:
    """Cross-entropy of a query against the mean vector of the names that go with it, and vectors of `negative_BQN` others, by dot
    product without temperature. Queries that nothing goes with are left out.

    present_BQR   bool: name r goes with query q
    negative_BQN  int64: names that do not; -1 pads
    """
    dot_BQR = query_BQE.float() @ book_RE.float().T
    count_BQ = present_BQR.sum(-1)
    positive_BQ = (dot_BQR * present_BQR).sum(-1) / count_BQ.clamp(min=1)
    dot_BQN = dot_BQR.gather(-1, negative_BQN.clamp(min=0)).masked_fill(negative_BQN < 0, -torch.inf)
    logit_BQM = torch.cat([positive_BQ[..., None], dot_BQN], -1)
    return _mean(-logit_BQM.log_softmax(-1)[..., 0], count_BQ > 0, process_group)


def _mean(value: Tensor, counted: Tensor, process_group: Group) -> Tensor:
    count = mean_over_processes(counted.sum().to(value), process_group)
    total = mean_over_processes(value.masked_fill(~counted, 0).sum(), process_group)
    return total / count.clamp_min(torch.finfo(count.dtype).tiny)
