"""Padding masks of transformers' bidirectional encoders.  Letters: B batch, L tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def key_mask(mask_BL: Tensor, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Tensor:
    """`attention_mask` of an encoder that reads in both directions: int64 [B, L], on a GPU ready-made as [B, 1, L, L].

    transformers drops a mask [B, L] that hides nothing. For that it looks at the values, and the host would wait for a GPU.
    attention  the implementation of the model: "sdpa" takes bool masks, "eager" adds the mask to scores of `dtype`
    """
    return mask_BL.long() if mask_BL.device.type == "cpu" else full_key_mask(mask_BL, attention, dtype)


def full_key_mask(mask_BL: Tensor, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Tensor:
    """Which tokens each token may read, [B, 1, L, L]: bool for "sdpa", else 0 or the least number of `dtype`."""
    read_B1LL = mask_BL.bool()[:, None, None].expand(-1, 1, mask_BL.shape[1], -1)
    if attention == "sdpa":
        return read_B1LL
    return torch.zeros_like(read_B1LL, dtype=dtype).masked_fill(~read_B1LL, torch.finfo(dtype).min)
