"""Padding masks of transformers' bidirectional encoders.  Letters: B batch, L tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def key_mask(mask_BL: Tensor, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the `attention_mask` of a bidirectional encoder: int64 [B, L], or on a GPU the expanded mask [B, 1, L, L].

    transformers drops a mask [B, L] without padding. For this it reads the values, and the host would wait for the GPU.
    attention  the implementation of the model: "sdpa" takes bool masks, "eager" adds the mask to scores of `dtype`
    """
    return mask_BL.long() if mask_BL.device.type == "cpu" else full_key_mask(mask_BL, attention, dtype)


def full_key_mask(mask_BL: Tensor, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Tensor:
    """Return which tokens each token may attend to, [B, 1, L, L]: bool for "sdpa", else 0 or the minimum of `dtype`."""
    read_B1LL = mask_BL.bool()[:, None, None].expand(-1, 1, mask_BL.shape[1], -1)
    if attention == "sdpa":
        return read_B1LL
    return torch.zeros_like(read_B1LL, dtype=dtype).masked_fill(~read_B1LL, torch.finfo(dtype).min)
