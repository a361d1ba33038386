"""Token embeddings with further rows after a frozen table: new words that are learned without changing the old ones.

Letters: B texts, L tokens, V words of the table, K new ones, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ExtendedEmbedding(nn.Module):
    """Embedding of ids below V by `weight` [V, D], and of V to V + K - 1 by the parameter `learned_KD`.

    Training the new rows as a parameter of their own equals training the whole table and restoring the old rows after every step: AdamW
    works number by number, and the old rows are bit-equal because nothing writes to them.
    """

    def __init__(self, table: nn.Embedding, learned: int) -> None:
        super().__init__()
        self.weight = table.weight
        self.learned_KD = nn.Parameter(torch.zeros(learned, table.embedding_dim, dtype=table.weight.dtype))

    def forward(self, id_BL: Tensor) -> Tensor:
        """Vectors [B, L, D] of token ids [B, L]."""
        words = self.weight.shape[0]
        table_BLD = functional.embedding(id_BL.clamp(max=words - 1), self.weight)
        learned_BLD = functional.embedding((id_BL - words).clamp(min=0), self.learned_KD)
        return torch.where((id_BL < words)[..., None], table_BLD, learned_BLD)
