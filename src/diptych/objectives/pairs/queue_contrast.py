"""Contrast with one's own partner against a queue alone: the partner of an item comes from a momentum model, and its negatives are what
that model's features of earlier batches (MoCo, 1911.05722; both ways over images and texts: LexLIP, ICCV 2023).

    l_n = -s p_n + log( exp(s p_n) + sum_k exp(s z_nk) ),   p_n = a_n . k_n,   z_nk = a_n . q_k

The other items of the batch are not among the negatives. An empty queue gives a loss of zero.

Letters: N items, D width, K keys of the queue.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes


def queue_contrast(
    anchor_ND: Tensor,
    key_ND: Tensor,
    negative_NK: Tensor,
    *,
    scale: Tensor | float,
    group_N: Tensor | None = None,
    group_K: Tensor | None = None,
    same: Literal["mask", "negative"] = "negative",
    process_group: Group = None,
) -> Tensor:
    """Mean loss over the global batch.

    key_ND       each anchor's partner; without gradient
    negative_NK  dot products of the anchors with the queue, not yet scaled (`SparseQueue.similarities`)
    same         keys of an anchor's own group are left out ("mask") or negatives as any other
    """
    if anchor_ND.shape != key_ND.shape or negative_NK.shape[:1] != anchor_ND.shape[:1]:
        raise ShapeError(
            f"anchors and keys must be [N, D] and similarities [N, K], got {list(anchor_ND.shape)}, {list(key_ND.shape)} and "
            f"{list(negative_NK.shape)}"
        )
    if same not in ("mask", "negative"):
        raise ConfigError(f"same is {same!r} (expected mask | negative)")
    dtype = torch.promote_types(anchor_ND.dtype, torch.float32)
    positive_N = (anchor_ND.to(dtype) * key_ND.detach().to(dtype)).sum(-1)
    logit_NK = negative_NK.to(dtype)
    if same == "mask" and group_N is not None and group_K is not None:
        logit_NK = logit_NK.masked_fill(group_N[:, None] == group_K, float("-inf"))
    logit_NC = torch.cat([positive_N[:, None], logit_NK], 1) * scale
    return mean_over_processes((logit_NC.logsumexp(1) - logit_NC[:, 0]).mean(), process_group)
