"""GOLD: off-policy caption training that weights each word by a frozen copy's probabilities of it and of the words after it (Pang
and He, 2021, arXiv 2009.07839; FIBER, 2206.07643, for captions).

    w_t = max(p_t mean_{s >= t} p_s, floor)

p_t is the copy's probability of the word at t; the mean ignores padding. Letters: B batch, L tokens, V words.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Mean = Literal["tokens", "released"]


def gold_weights(logit_BLV: Tensor, text_BL: Tensor, mask_BL: Tensor, *, floor: float = 0.1) -> Tensor:
    """Weights [B, L - 1] of the words after the first. `logit_BLV` at position l predicts the word at l + 1. No gradient."""
    there_BM = mask_BL[:, 1:]
    share_BM = logit_BLV.detach()[:, :-1].double().softmax(-1).gather(-1, text_BL[:, 1:, None]).squeeze(-1) * there_BM
    later_BM = share_BM.flip(1).cumsum(1).flip(1)
    count_BM = there_BM.flip(1).cumsum(1).flip(1).clamp(min=1)
    return (share_BM * later_BM / count_BM).clamp(min=floor)


def gold_caption_loss(logit_BLV: Tensor, weight_BM: Tensor, text_BL: Tensor, mask_BL: Tensor, *, mean: Mean = "tokens") -> Tensor:
    """Weighted next-word cross-entropy; the mean over the words of a row, then over rows.

    mean  "released" divides by the number of padded positions instead of words, as the released code does; the loss diverges for
          a text that fills its row
    """
    wide = torch.promote_types(logit_BLV.dtype, torch.float32)
    nll_BM = F.cross_entropy(logit_BLV[:, :-1].flatten(0, 1).to(wide), text_BL[:, 1:].flatten(), reduction="none")
    there_BM = mask_BL[:, 1:]
    total_B = (nll_BM.view(there_BM.shape) * weight_BM.to(wide) * there_BM).sum(1)
    if mean == "released":
        padded_B = text_BL.shape[1] - there_BM.sum(1)
        return (total_B / (padded_B + 1e-9)).mean()
    return (total_B / there_BM.sum(1).clamp(min=1)).mean()
