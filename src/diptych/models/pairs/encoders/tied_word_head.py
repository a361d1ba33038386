"""BERT's masked-language-model head, tied to the input embeddings.  Letters: V vocabulary, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TiedWordHead(nn.Module):
    """Linear, GELU, norm, then the product with the word embeddings, plus a bias per word,
    as in `BertForMaskedLM` of transformers.

    The embeddings are an argument of each call, not a parameter of the head.
    Weights are initialised from a normal of deviation 0.02, biases with 0.
    """

    def __init__(self, width: int, words: int, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        self.bias_V = nn.Parameter(torch.zeros(words))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, table_VD: Tensor) -> Tensor:
        """Return logits [..., V] of vectors [..., D]."""
        return F.linear(self.norm(F.gelu(self.dense(x))), table_VD, self.bias_V)
