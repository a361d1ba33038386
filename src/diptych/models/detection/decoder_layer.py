"""One layer of a detector's decoder.  Letters: B batch, Q queries, L levels, C 2 or 4 coordinates, D width."""

from __future__ import annotations

from torch import Tensor, nn

from diptych.models.detection.deformable_attention import DeformableAttention
from diptych.models.detection.feature_pyramid import Pyramid


class DecoderLayer(nn.Module):
    """Queries read each other, then the image, then think; post-norm. Positions are added where a query asks.

    The image is read at a few points round each query's reference (deformable), or everywhere (`dense`, DETR).
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
        pyramid: Pyramid,
        hidden_BQQ: Tensor | None = None,
    ) -> Tensor:
        """`hidden_BQQ` is True where query q (second axis) must not read query k (third)."""
        asking_BQD = x_BQD + position_BQD
        if hidden_BQQ is not None:
            hidden_BQQ = hidden_BQQ.repeat_interleave(self.among.num_heads, 0)
        read_BQD, _ = self.among(asking_BQD, asking_BQD, x_BQD, attn_mask=hidden_BQQ, need_weights=False)
        x_BQD = self.norm_1(x_BQD + self.drop(read_BQD))
        x_BQD = self.norm_2(x_BQD + self.drop(self._read_image(x_BQD + position_BQD, reference_BQC, pyramid)))
        thought_BQD = self.mlp_out(self.drop(self.mlp_in(x_BQD).relu()))
        out_BQD: Tensor = self.norm_3(x_BQD + self.drop(thought_BQD))
        return out_BQD

    def _read_image(self, asking_BQD: Tensor, reference_BQC: Tensor | None, pyramid: Pyramid) -> Tensor:
        tokens_BPD, mask_BP = pyramid.tokens_BPD, pyramid.mask_BP
        if isinstance(self.image, DeformableAttention):
            assert reference_BQC is not None
            read_BQD: Tensor = self.image(asking_BQD, pyramid.in_levels(reference_BQC), tokens_BPD, pyramid.shapes, mask_BP)
        else:
            hidden_BP = None if mask_BP is None else ~mask_BP
            key_BPD = tokens_BPD + pyramid.position_BPD
            read_BQD, _ = self.image(asking_BQD, key_BPD, tokens_BPD, key_padding_mask=hidden_BP, need_weights=False)
        return read_BQD
