"""One layer of a detector's decoder.  Letters: B batch, Q queries, L levels, C 2 or 4 coordinates, D width."""

from __future__ import annotations

from torch import Tensor, nn

from diptych.models.detection.deformable_attention import DeformableAttention
from diptych.models.detection.feature_pyramid import PyramidTokens


class DecoderLayer(nn.Module):
    """Transformer decoder layer: self-attention, cross-attention to the image, MLP; post-norm. Positions are added to attention queries.

    Cross-attention samples a few points around each query's reference (deformable) or attends to all positions (`dense`, DETR).
    """

    def __init__(
        self, width: int, heads: int, *, mlp_width: int, levels: int, points: int, dense: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dense = dense
        self.among = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.image: nn.Module = (
            nn.MultiheadAttention(width, heads, dropout, batch_first=True)
            if dense
            else DeformableAttention(width, heads, levels=levels, points=points)
        )
        self.norm_1, self.norm_2, self.norm_3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x_BQD: Tensor,
        position_BQD: Tensor,
        reference_BQC: Tensor | None,
        pyramid: PyramidTokens,
        hidden_BQQ: Tensor | None = None,
    ) -> Tensor:
        """`hidden_BQQ` is True where query q (second axis) must not read query k (third)."""
        query_BQD = x_BQD + position_BQD
        if hidden_BQQ is not None:
            hidden_BQQ = hidden_BQQ.repeat_interleave(self.among.num_heads, 0)
        attended_BQD, _ = self.among(query_BQD, query_BQD, x_BQD, attn_mask=hidden_BQQ, need_weights=False)
        x_BQD = self.norm_1(x_BQD + self.drop(attended_BQD))
        x_BQD = self.norm_2(x_BQD + self.drop(self._read_image(x_BQD + position_BQD, reference_BQC, pyramid)))
        mlp_out_BQD = self.mlp_out(self.drop(self.mlp_in(x_BQD).relu()))
        out_BQD: Tensor = self.norm_3(x_BQD + self.drop(mlp_out_BQD))
        return out_BQD

    def _read_image(self, query_BQD: Tensor, reference_BQC: Tensor | None, pyramid: PyramidTokens) -> Tensor:
        tokens_BPD, mask_BP = pyramid.tokens_BPD, pyramid.mask_BP
        if isinstance(self.image, DeformableAttention):
            assert reference_BQC is not None
            attended_BQD: Tensor = self.image(query_BQD, pyramid.in_levels(reference_BQC), tokens_BPD, pyramid.shapes, mask_BP)
        else:
            hidden_BP = None if mask_BP is None else ~mask_BP
            key_BPD = tokens_BPD + pyramid.position_BPD
            attended_BQD, _ = self.image(query_BQD, key_BPD, tokens_BPD, key_padding_mask=hidden_BP, need_weights=False)
        return attended_BQD
