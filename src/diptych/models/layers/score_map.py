"""Pixel-text score map: similarity of each image position to each text.  Letters: B batch, K texts, D width, H W."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def score_map(dense_BDHW: Tensor, text_KD: Tensor) -> Tensor:
    """Return cosines [B, K, H, W] of dense features with texts [K, D], or with separate texts [B, K, D] per image.
    No temperature.
    """
    dense_BDHW, text = F.normalize(dense_BDHW, dim=1), F.normalize(text_KD, dim=-1)
    return torch.einsum("bdhw,bkd->bkhw" if text.ndim == 3 else "bdhw,kd->bkhw", dense_BDHW, text)
