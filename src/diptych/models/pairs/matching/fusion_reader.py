"""Image-conditioned masked language modelling: the upper layers of ALBEF (2107.07651).

Letters: B batch, L tokens, M positions to predict, P patches, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.attention import Attention
from diptych.models.layers.post_norm import PostNormAttention
from diptych.models.towers.outputs import Tower


class CrossBlock(nn.Module):
    """Pre-norm block, as in our towers: self-attention of words, cross-attention to patches, and an MLP."""

    def __init__(self, width: int, heads: int, *, image_width: int, mlp_width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2, self.norm_3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.image = nn.MultiheadAttention(width, heads, kdim=image_width, vdim=image_width, batch_first=True)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor, patch_BPD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attention(self.norm_1(x_BLD), mask_BL)
        attended_BLD, _ = self.image(self.norm_2(x_BLD), patch_BPD, patch_BPD, need_weights=False)
        x_BLD = x_BLD + attended_BLD
        out_BLD: Tensor = x_BLD + self.mlp_out(F.gelu(self.mlp_in(self.norm_3(x_BLD))))
        return out_BLD


class PostNormCrossBlock(nn.Module):
    """Post-norm variant of `CrossBlock`, as in ALBEF; weights are initialised from a normal of deviation 0.02, as in BERT."""

    def __init__(self, width: int, heads: int, *, image_width: int, mlp_width: int, dropout: float, eps: float = 1e-12) -> None:
        super().__init__()
        self.attention = PostNormAttention(width, heads, width, dropout=dropout, eps=eps)
        self.image = PostNormAttention(width, heads, image_width, dropout=dropout, eps=eps)
        self.mlp_in, self.mlp_out, self.norm = (
            nn.Linear(width, mlp_width),
            nn.Linear(mlp_width, width),
            nn.LayerNorm(width, eps=eps),
        )
        self.dropout = dropout
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor, patch_BPD: Tensor) -> Tensor:
        x_BLD = self.image(self.attention(x_BLD, x_BLD, mask_BL[:, None, None, :]), patch_BPD, None)
        out_BLD: Tensor = self.norm(x_BLD + F.dropout(self.mlp_out(F.gelu(self.mlp_in(x_BLD))), self.dropout, self.training))
        return out_BLD


class FusionEncoder(nn.Module):
    """`layers` blocks on the word vectors of a text tower, then BERT's word head, tied to the tower's word embeddings.

    mask_id    the vocabulary's mask token; None: a learned vector is used, so that any vocabulary works
    post_norm  blocks and head are BERT's, as released; dropout of those
    """

    def __init__(
        self,
        text_tower: Tower,
        *,
        image_width: int,
        layers: int,
        heads: int,
        post_norm: bool = False,
        dropout: float = 0.1,
        mask_id: int | None = None,
    ) -> None:
        super().__init__()
        table, width = word_table(text_tower), text_tower.width
        self.mask_id = mask_id
        self.mask_D = nn.Parameter(torch.randn(table.embedding_dim) * 0.02) if mask_id is None else None
        sizes: dict[str, Any] = {"image_width": image_width, "mlp_width": 4 * width}
        self.blocks = nn.ModuleList(
            PostNormCrossBlock(width, heads, **sizes, dropout=dropout) if post_norm else CrossBlock(width, heads, **sizes)
            for _ in range(layers)
        )
        eps = 1e-12 if post_norm else 1e-5
        self.dense, self.norm = nn.Linear(width, table.embedding_dim), nn.LayerNorm(table.embedding_dim, eps=eps)
        if post_norm:
            nn.init.normal_(self.dense.weight, std=0.02)
            nn.init.zeros_(self.dense.bias)
        self.bias_V = nn.Parameter(torch.zeros(table.num_embeddings))

    def forward(
        self, text_tower: Tower, masked_BL: Tensor, hidden_BL: Tensor, mask_BL: Tensor, patch_BPD: Tensor, place_BM: Tensor
    ) -> Tensor:
        """Return vocabulary logits [B, M, V] at the positions `place_BM` of the masked text."""
        table = word_table(text_tower)
        given = masked_BL if self.mask_id is None else masked_BL.masked_fill(hidden_BL, self.mask_id)
        if self.mask_D is not None:
            given = torch.where(hidden_BL[..., None], self.mask_D.to(table.weight), table(masked_BL))
        x_BLD = self.read(text_tower, given, mask_BL, patch_BPD)
        asked_BMD = x_BLD.gather(1, place_BM[..., None].expand(-1, -1, x_BLD.shape[2]))
        return F.linear(self.norm(F.gelu(self.dense(asked_BMD))), table.weight, self.bias_V)

    def read(self, text_tower: Tower, text: Tensor, mask_BL: Tensor, patch_BPD: Tensor) -> Tensor:
        """Return fused token features after the blocks, [B, L, D]; `text` are ids or word embeddings."""
        x_BLD: Tensor = text_tower(text, mask_BL).tokens_BPD
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_BL, patch_BPD)
        return x_BLD


def word_table(text_tower: Tower) -> nn.Embedding:
    """Return the tower's word embeddings."""
    table = getattr(text_tower, "embed", None)
    if table is None and hasattr(text_tower, "net"):
        table = text_tower.net.get_input_embeddings()  # type: ignore[operator, union-attr]
    if not isinstance(table, nn.Embedding):
        raise ConfigError(f"{type(text_tower).__name__} has no table of words (expected one of our text towers, or hf:FOLDER)")
    return table
