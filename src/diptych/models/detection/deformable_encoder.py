"""The image encoder of detectors, with fusion of image and labels before some of its layers.

Letters: B batch, P positions, T labels, D width, S labels' layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.detection.deformable_attention import DeformableAttention
from diptych.models.detection.feature_pyramid import PyramidTokens
from diptych.models.detection.language_fusion import BidirectionalFusion


class EncoderLayer(nn.Module):
    """norm(x + attention(x + position)), then norm(x + mlp(x)). Attention is deformable over all levels, or dense (DETR)."""

    def __init__(
        self, width: int, heads: int, *, mlp_width: int, levels: int, points: int, dense: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dense = dense
        self.attention: nn.Module = (
            nn.MultiheadAttention(width, heads, dropout, batch_first=True)
            if dense
            else DeformableAttention(width, heads, levels=levels, points=points)
        )
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, pyramid: PyramidTokens, reference_BPLC: Tensor) -> PyramidTokens:
        x_BPD, mask_BP = pyramid.tokens_BPD, pyramid.mask_BP
        query_BPD = x_BPD + pyramid.position_BPD
        if self.dense:
            hidden_BP = None if mask_BP is None else ~mask_BP
            attended_BPD, _ = self.attention(query_BPD, query_BPD, x_BPD, key_padding_mask=hidden_BP, need_weights=False)
        else:
            attended_BPD = self.attention(query_BPD, reference_BPLC, x_BPD, pyramid.shapes, mask_BP)
        x_BPD = self.norm_1(x_BPD + self.drop(attended_BPD))
        mlp_out_BPD = self.mlp_out(self.drop(self.mlp_in(x_BPD).relu()))
        return replace(pyramid, tokens_BPD=self.norm_2(x_BPD + self.drop(mlp_out_BPD)))


class LanguageLayer(nn.TransformerEncoderLayer):
    """One post-norm transformer layer among label vectors (RoBERTa's form, fresh weights). It has no positions, so the order of the
    labels does not matter."""

    def __init__(self, width: int, heads: int, *, mlp_width: int, dropout: float = 0.1) -> None:
        super().__init__(width, heads, mlp_width, dropout, activation="gelu", batch_first=True)


class LanguageFusedEncoder(nn.Module):
    """Encoder layers; before some of them a fusion of image and labels followed by language layers.

    fusion_before   depths before which image and labels meet; published for six layers: 0, 2, 4. Empty: labels are never touched
    coarsest_only   only the coarsest level meets the labels (published); else all places
    read_padding    labels read padded places too, as released (its mask of them is without effect); else they are hidden
    language_layers layers among the labels after each fusion
    """

    def __init__(
        self,
        layers: Sequence[EncoderLayer],
        fusions: Sequence[BidirectionalFusion] = (),
        language: Sequence[Sequence[LanguageLayer]] = (),
        *,
        fusion_before: Sequence[int] = (),
        coarsest_only: bool = True,
        read_padding: bool = False,
    ) -> None:
        super().__init__()
        if not len(fusions) == len(language) == len(fusion_before):
            raise ConfigError(
                f"{len(fusion_before)} depths for {len(fusions)} fusions and {len(language)} groups of language layers"
            )
        if sorted(set(fusion_before)) != list(fusion_before) or any(not 0 <= depth < len(layers) for depth in fusion_before):
            raise ConfigError(f"fusion before layers {tuple(fusion_before)} (expected rising depths in 0..{len(layers) - 1})")
        self.layers, self.fusions = nn.ModuleList(layers), nn.ModuleList(fusions)
        self.language = nn.ModuleList(nn.Sequential(*group) for group in language)
        self.fusion_before, self.coarsest_only, self.read_padding = tuple(fusion_before), coarsest_only, read_padding

    def forward(
        self,
        pyramid: PyramidTokens,
        label_BTD: Tensor,
        hidden_T: Tensor | None = None,
        label_mask_BT: Tensor | None = None,
    ) -> tuple[PyramidTokens, list[Tensor]]:
        """The encoded pyramid and the labels after each meeting (of one image each: [B, T, D]). `hidden_T` is True at labels that
        no other label reads; `label_mask_BT` is False at padding, which neither labels nor places read."""
        reference_BPLC = pyramid.in_levels(pyramid.centres())
        label_states: list[Tensor] = []
        for depth, layer in enumerate(self.layers):
            if depth in self.fusion_before:
                turn = self.fusion_before.index(depth)
                pyramid, label_BTD = self._meet(self.fusions[turn], pyramid, label_BTD, label_mask_BT)
                label_BTD = self._among_labels(turn, label_BTD, hidden_T if label_mask_BT is None else ~label_mask_BT)
                label_states.append(label_BTD)
            pyramid = layer(pyramid, reference_BPLC)
        return pyramid, label_states

    def _among_labels(self, turn: int, label_BTD: Tensor, hidden_XT: Tensor | None) -> Tensor:
        if hidden_XT is None:
            among_BTD: Tensor = self.language[turn](label_BTD)
            return among_BTD
        # The least number, not -inf: where all labels are hidden they read each other evenly, as released, and nothing is NaN.
        mask_BT = (hidden_XT.to(label_BTD) * torch.finfo(label_BTD.dtype).min).expand(len(label_BTD), -1)
        for layer in self.language[turn]:  # type: ignore[attr-defined]
            label_BTD = layer(label_BTD, src_key_padding_mask=mask_BT)
        return label_BTD

    def _meet(
        self, fusion: nn.Module, pyramid: PyramidTokens, label_BTD: Tensor, label_mask_BT: Tensor | None
    ) -> tuple[PyramidTokens, Tensor]:
        part = pyramid.coarsest if self.coarsest_only else slice(None)
        x_BPD = pyramid.tokens_BPD
        mask_BP = None if pyramid.mask_BP is None or self.read_padding else pyramid.mask_BP[:, part]
        fused_BPD, label_BTD = fusion(x_BPD[:, part], label_BTD, pyramid.position_BPD[:, part], mask_BP, label_mask_BT)
        tokens_BPD = torch.cat((x_BPD[:, : part.start], fused_BPD), 1) if self.coarsest_only else fused_BPD
        return replace(pyramid, tokens_BPD=tokens_BPD), label_BTD
