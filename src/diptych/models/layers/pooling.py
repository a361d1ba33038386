"""Pooling of tokens into one vector.  Letters: B batch, L tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_pool(tokens_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean of the real tokens; zeros for a row without any."""
    weight_BL1 = mask_BL.unsqueeze(-1).to(tokens_BLD.dtype)
    return (tokens_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp_min(1)


def pool_at(tokens_BLD: Tensor, position_B: Tensor) -> Tensor:
    """Return the token at one position per row."""
    return tokens_BLD.gather(1, position_B[:, None, None].expand(-1, 1, tokens_BLD.shape[2])).squeeze(1)


def first_position(ids_BL: Tensor, token_id: int) -> Tensor:
    """Return the first position of an id in each row. (The position of the largest id is the end only if the end token has the
    largest id.)
    """
    return (ids_BL == token_id).to(torch.uint8).argmax(1)


def last_real(mask_BL: Tensor) -> Tensor:
    """Return the position of the last real token in each row."""
    return mask_BL.shape[1] - 1 - mask_BL.flip(1).to(torch.uint8).argmax(1)
