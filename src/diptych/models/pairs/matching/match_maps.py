"""Relevance maps of a match: attention times its gradient (GroundVLP, 2312.15043; Chefer et al., 2103.15679).

Letters: B batch, H heads, L tokens, S attended positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grad_times_attention(share_BHLS: Tensor, score: Tensor) -> Tensor:
    """Return the mean over heads of A * max(dscore / dA, 0), [B, L, S], without gradient.

    share_BHLS  the attention weights, part of the graph of `score`; for a batch, `score` is the sum of the rows' scores
    """
    (grad_BHLS,) = torch.autograd.grad(score, share_BHLS)
    return (share_BHLS.detach() * grad_BHLS.relu()).mean(1)
