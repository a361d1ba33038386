"""Fusion on top of two finished towers: in each layer either side reads itself and the other (METER's co-attention, 2111.02387).

Letters: B batch, P positions of a picture, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.fiber.gated_cross_attention import GatedCrossAttention
from diptych.models.layers.attention import Attention


class TopBlock(nn.Module):
    """Self-attention, cross-attention and two layers of one side, each normed after its sum as in BERT. The reading has no gate
    that starts shut: its alpha stays 1."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.other = Attention(width, heads), GatedCrossAttention(width, heads, width, normed=False)
        self.other.alpha_1.requires_grad_(False).fill_(1.0)
        self.norm_1, self.norm_2, self.norm_3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BND: Tensor, mask_BN: Tensor | None, other_BSD: Tensor, other_mask_BS: Tensor | None) -> Tensor:
        x_BND = self.norm_1(x_BND + self.attention(x_BND, mask_BN))
        x_BND = self.norm_2(x_BND + self.other(x_BND, other_BSD, other_mask_BS))
        out_BND: Tensor = self.norm_3(x_BND + self.mlp_out(F.gelu(self.mlp_in(x_BND))))
        return out_BND


class TopLayers(nn.Module):
    """Layers of two blocks, one a side, which read what the other side was before the layer."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.image_blocks = nn.ModuleList(TopBlock(width, heads) for _ in range(layers))
        self.text_blocks = nn.ModuleList(TopBlock(width, heads) for _ in range(layers))
        self.layers, self.heads = layers, heads
        self.side_2D = nn.Parameter(torch.zeros(2, width))

    def forward(self, image_BPD: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        image_BPD, text_BLD = image_BPD + self.side_2D[0], text_BLD + self.side_2D[1]
        for image_block, text_block in zip(self.image_blocks, self.text_blocks, strict=True):
            image_BPD, text_BLD = (
                image_block(image_BPD, None, text_BLD, mask_BL),
                text_block(text_BLD, mask_BL, image_BPD, None),
            )
        return image_BPD, text_BLD
