"""BERT's word head over the table that texts are read with.  Letters: V vocabulary, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TiedWordHead(nn.Module):
    """Linear, GELU, norm, then the product with the table of word embeddings, plus a bias a word, as `BertForMaskedLM` of transformers. The
    table is given at every call and is no parameter of the head. Weights start normal with deviation 0.02, biases at 0."""

    def __init__(self, width: int, words: int, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        self.bias_V = nn.Parameter(torch.zeros(words))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, table_VD: Tensor) -> Tensor:
        """Logits [..., V] of vectors [..., D]."""
        return F.linear(self.norm(F.gelu(self.dense(x))), table_VD, self.bias_V)
