"""Co-attention of text and image, and beside the text of the entities that it names (ARL, 2209.07118).

Letters: B batch, L text tokens, P image tokens, S entities of a text, D width, E width of an entity.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from diptych.models.layers.post_norm import PostNormAttention


class PostNormMLP(nn.Module):
    """norm(x + mlp(x)), as in BERT."""

    def __init__(self, width: int, mlp_width: int, *, dropout: float, eps: float) -> None:
        super().__init__()
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.norm, self.dropout = nn.LayerNorm(width, eps=eps), dropout

    def forward(self, x_BLD: Tensor) -> Tensor:
        added_BLD = F.dropout(self.mlp_out(F.gelu(self.mlp_in(x_BLD))), self.dropout, self.training)
        out_BLD: Tensor = self.norm(x_BLD + added_BLD)
        return out_BLD


class CoAttention(nn.Module):
    """A side reads itself, then the other side; each is followed by a norm, and all by an MLP."""

    def __init__(
        self, width: int, heads: int, source_width: int, *, mlp_width: int, dropout: float = 0.1, eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.own = PostNormAttention(width, heads, width, dropout=dropout, eps=eps)
        self.other = PostNormAttention(width, heads, source_width, dropout=dropout, eps=eps)
        self.mlp = PostNormMLP(width, mlp_width, dropout=dropout, eps=eps)

    def attended(self, x_BLD: Tensor, source_BPD: Tensor, may_own: Tensor | None, may_other: Tensor | None) -> Tensor:
        """The side before its MLP. `may_own`, `may_other`: what may be read, broadcastable to [B, heads, L, L or P]."""
        out_BLD: Tensor = self.other(self.own(x_BLD, x_BLD, may_own), source_BPD, may_other)
        return out_BLD

    def forward(self, x_BLD: Tensor, source_BPD: Tensor, may_own: Tensor | None, may_other: Tensor | None) -> Tensor:
        out_BLD: Tensor = self.mlp(self.attended(x_BLD, source_BPD, may_own, may_other))
        return out_BLD


class KnowledgeCoAttention(nn.Module):
    """The text side with knowledge: entities read each other and the image, and each is added to the tokens that name it.

    Before the text's MLP: x + P^T K, K a linear map of the entities, through BERT's output block (linear, dropout, sum, norm).
    """

    def __init__(self, width: int, heads: int, *, mlp_width: int, entity_width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.text = CoAttention(width, heads, width, mlp_width=mlp_width, dropout=dropout)
        self.entity = CoAttention(entity_width, 4, entity_width, mlp_width=4 * entity_width, dropout=dropout)
        self.image_to_entity, self.entity_to_text = nn.Linear(width, entity_width), nn.Linear(entity_width, width)
        self.fused, self.norm, self.dropout = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12), dropout

    def forward(
        self, x_BLD: Tensor, image_BPD: Tensor, entity_BSE: Tensor, may_text: Tensor, may_entity: Tensor, tokens_BSL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Text and entities after the layer. tokens_BSL: 1 where a token is part of an entity's mention."""
        text_BLD = self.text.attended(x_BLD, image_BPD, may_text, None)
        entity_BSE = self.entity.attended(entity_BSE, self.image_to_entity(image_BPD), may_entity, None)
        knowledge_BLD = tokens_BSL.to(text_BLD).transpose(1, 2) @ self.entity_to_text(entity_BSE)
        added_BLD = F.dropout(self.fused(text_BLD + knowledge_BLD), self.dropout, self.training)
        return self.text.mlp(self.norm(text_BLD + added_BLD)), self.entity.mlp(entity_BSE)
