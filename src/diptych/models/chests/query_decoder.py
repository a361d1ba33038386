"""Transformer decoder that also returns the cross-attention of its queries.  Letters: B batch, L layers, Q queries, P tokens,
D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class QueryDecoderLayer(nn.Module):
    """Pre-norm transformer decoder layer: self-attention of queries, cross-attention to tokens, MLP with ReLU.

    It is equivalent to `nn.TransformerDecoderLayer(norm_first=True)`, with the same parameter names,
    but also returns the cross-attention.
    """

    def __init__(self, width: int, heads: int, *, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_BQD: Tensor, token_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries, and their attention over tokens [B, Q, P], mean over heads."""
        normed_BQD = self.norm1(query_BQD)
        attended_BQD, _ = self.self_attn(normed_BQD, normed_BQD, normed_BQD, need_weights=False)
        query_BQD = query_BQD + self.dropout(attended_BQD)
        attended_BQD, attention_BQP = self.multihead_attn(self.norm2(query_BQD), token_BPD, token_BPD)
        query_BQD = query_BQD + self.dropout(attended_BQD)
        mlp_out_BQD = self.linear2(self.dropout(self.linear1(self.norm3(query_BQD)).relu()))
        return query_BQD + self.dropout(mlp_out_BQD), attention_BQP


class QueryDecoder(nn.Module):
    """Stack of `QueryDecoderLayer` with a final norm, which several decoders may share."""

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        *,
        mlp_width: int,
        dropout: float = 0.0,
        norm: nn.LayerNorm | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(QueryDecoderLayer(width, heads, mlp_width=mlp_width, dropout=dropout) for _ in range(layers))
        self.norm = norm or nn.LayerNorm(width)

    def forward(self, query_BQD: Tensor, token_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries after the final norm, and each layer's attention over tokens [L, B, Q, P]."""
        maps = []
        for layer in self.layers:
            query_BQD, attention_BQP = layer(query_BQD, token_BPD)
            maps.append(attention_BQP)
        return self.norm(query_BQD), torch.stack(maps)
