"""Negative log-likelihood of answers: shared by the training loss and by the ranking of candidates.

Letters: A answer tokens of all rows, V vocabulary, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def answer_nll(logit_AV: Tensor, target_A: Tensor, row_A: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """nll_B, the negative log-likelihood of each row's answer in nats, summed over its tokens; count_B, the number of those tokens.

    logit_AV  logits at the position that predicts token `target_A` of row `row_A`; computed in at least float32
    """
    wide = torch.promote_types(logit_AV.dtype, torch.float32)
    nll_A = F.cross_entropy(logit_AV.to(wide), target_A, reduction="none")
    nll_B = torch.zeros(rows, dtype=wide, device=nll_A.device).index_add(0, row_A, nll_A)
    count_B = torch.zeros_like(nll_B).index_add(0, row_A, torch.ones_like(nll_A))  # bincount would make the host wait for a GPU
    return nll_B, count_B
