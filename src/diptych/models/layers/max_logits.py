"""Maximum of each word's logit over all positions of a text or picture, without storing the logits of all positions.

    peak_bv = max over real positions p of  x_bp . w_v + c_v

A batch of 100 pictures with 197 positions and 30,522 words has 2.4 GB of logits; only the maxima [B,
V] and their positions are needed. Forward and backward run over the words in tiles.  Letters: B batch, P positions, D width,
V vocabulary, T words per tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diptych.core.errors import ShapeError

TILE = 8_000_000
"""Number of logits stored at a time."""


def max_logits(x_BPD: Tensor, mask_BP: Tensor, weight_VD: Tensor, bias_V: Tensor, *, tile: int = TILE) -> tuple[Tensor, Tensor]:
    """Return (peak_BV, place_BV): the maximal logit of each word, and its position; among equal ones the first gets the gradient.

    mask_BP  True at real positions; every row needs at least one
    tile     logits at a time; changes memory and time, nothing else
    """
    if x_BPD.ndim != 3 or mask_BP.shape != x_BPD.shape[:2] or weight_VD.shape != (len(bias_V), x_BPD.shape[2]):
        raise ShapeError(
            f"peaks need vectors [B, P, D], a mask [B, P] and words [V, D] with a bias [V], got {list(x_BPD.shape)}, "
            f"{list(mask_BP.shape)}, {list(weight_VD.shape)} and {list(bias_V.shape)}"
        )
    device = x_BPD.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x_BPD, weight_VD, bias_V = x_BPD.to(dtype), weight_VD.to(dtype), bias_V.to(dtype)
    peak_BV, place_BV = _MaxLogits.apply(x_BPD, mask_BP, weight_VD, bias_V, tile)  # type: ignore[no-untyped-call]
    return peak_BV, place_BV


class _MaxLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BPD: Tensor, mask_BP: Tensor, weight_VD: Tensor, bias_V: Tensor, tile: int) -> tuple[Tensor, Tensor]:
        rows, positions, _ = x_BPD.shape
        peak_BV = x_BPD.new_empty(rows, len(weight_VD))
        place_BV = torch.empty(rows, len(weight_VD), dtype=torch.int64, device=x_BPD.device)
        ctx.words = words = max(1, tile // max(1, rows * positions))
        with torch.autocast(x_BPD.device.type, enabled=False):
            for start in range(0, len(weight_VD), words):
                here = slice(start, start + words)
                logit_BPT = x_BPD @ weight_VD[here].T + bias_V[here]
                logit_BPT = logit_BPT.masked_fill_(~mask_BP[..., None], float("-inf"))
                peak_BV[:, here], place_BV[:, here] = logit_BPT.max(1)
        ctx.mark_non_differentiable(place_BV)
        ctx.save_for_backward(x_BPD, weight_VD, place_BV)
        return peak_BV, place_BV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BV: Tensor, _: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x_BPD, weight_VD, place_BV = ctx.saved_tensors
        grad_x_BPD, grad_weight_VD = torch.zeros_like(x_BPD), torch.zeros_like(weight_VD)
        grad_BV = grad_BV.to(x_BPD.dtype)
        with torch.autocast(x_BPD.device.type, enabled=False):
            for start in range(0, len(weight_VD), ctx.words):
                here = slice(start, start + ctx.words)
                grad_BT = grad_BV[:, here]
                grad_BPT = grad_BT.new_zeros(*x_BPD.shape[:2], grad_BT.shape[1])
                grad_BPT.scatter_(1, place_BV[:, None, here], grad_BT[:, None])
                grad_x_BPD += grad_BPT @ weight_VD[here]
                grad_weight_VD[here] = grad_BPT.flatten(0, 1).T @ x_BPD.flatten(0, 1)
        return grad_x_BPD, None, grad_weight_VD, grad_BV.sum(0), None
