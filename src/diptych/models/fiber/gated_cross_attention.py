"""Gated cross-attention (FIBER, 2206.07643): alpha * attention(x, other side), with alpha 0 at the start.

Letters: B batch, N positions that read, S places that are read, D width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError


class GatedCrossAttention(nn.Module):
    """Gated cross-attention from one modality to the other.

    Every place reads by itself, so the windows of a Swin block need not be cut for it: a window reads the whole text, as published, and
    so does each of its places.

    normed   a LayerNorm precedes the query (image side)
    dropout  of the attention's shares and of the output (text side)
    """

    def __init__(
        self, width: int, heads: int, source_width: int, *, normed: bool, eps: float = 1e-5, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width, eps=eps) if normed else nn.Identity()
        self.query = nn.Linear(width, width)
        self.key, self.value = nn.Linear(source_width, width), nn.Linear(source_width, width)
        self.out = nn.Linear(width, width)
        self.alpha_1 = nn.Parameter(torch.zeros(1))
        self._watched: list[Tensor] | None = None
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BND: Tensor, source_BSC: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """alpha * c [B, N, D]. `mask_BS` is True where the other side may be read."""
        return self.alpha_1 * self.read(x_BND, source_BSC, mask_BS)

    def read(self, x_BND: Tensor, source_BSC: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """c [B, N, D], before the gate."""
        q_BHNE, k_BHSE, v_BHSE = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.query, self.norm(x_BND)), (self.key, source_BSC), (self.value, source_BSC))
        )
        may = None if mask_BS is None else mask_BS[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        if self._watched is None:
            attended_BHNE = F.scaled_dot_product_attention(q_BHNE, k_BHSE, v_BHSE, attn_mask=may, dropout_p=dropout)
        else:
            logit_BHNS = (q_BHNE * q_BHNE.shape[-1] ** -0.5) @ k_BHSE.transpose(-2, -1)
            share_BHNS = (logit_BHNS if may is None else logit_BHNS.masked_fill(~may, float("-inf"))).softmax(-1)
            self._watched.append(share_BHNS)
            attended_BHNE = share_BHNS @ v_BHSE
        out_BND: Tensor = self.out(attended_BHNE.transpose(1, 2).flatten(2))
        return F.dropout(out_BND, self.dropout, self.training)

    @contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """Inside, the shares [B, H, N, S] of each reading are collected, part of the graph: ask autograd for their gradient."""
        self._watched = []
        try:
            yield self._watched
        finally:
            self._watched = None
