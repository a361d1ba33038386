"""FIBER's text tower: RoBERTa (1907.11692) whose last layers may read a picture.

Letters: B batch, L tokens, P positions of a picture, D width, C channels of the picture, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.fiber.gated_cross_attention import GatedCrossAttention
from diptych.models.layers.attention import Attention


class FiberTextBlock(nn.Module):
    """norm(x + a + alpha c), then norm(x + mlp(x)): post-norm as BERT, where c reads the picture from a, what self-attention gives."""

    def __init__(
        self, width: int, heads: int, *, mlp_width: int, dropout: float, eps: float, image_width: int | None = None
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.gate = None if image_width is None else GatedCrossAttention(width, heads, image_width, normed=False, dropout=dropout)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor, may: Tensor, image_BPC: Tensor | None = None, *, normed: bool = True) -> Tensor:
        """`may` is True where a token may be read, broadcastable to [B, H, L, L]; `normed` False leaves the last norm out."""
        attended_BLD = F.dropout(self._attended(x_BLD, may), self.dropout, self.training)
        if image_BPC is not None:
            assert self.gate is not None
            attended_BLD = attended_BLD + self.gate(attended_BLD, image_BPC)
        x_BLD = self.norm_1(x_BLD + attended_BLD)
        x_BLD = x_BLD + F.dropout(self.mlp_out(F.gelu(self.mlp_in(x_BLD))), self.dropout, self.training)
        return self.norm_2(x_BLD) if normed else x_BLD

    def _attended(self, x_BLD: Tensor, may: Tensor) -> Tensor:
        heads = self.attention.heads
        q_BHLE, k_BHLE, v_BHLE = self.attention.qkv(x_BLD).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        attended_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, attn_mask=may, dropout_p=dropout)
        out_BLD: Tensor = self.attention.out(attended_BHLE.transpose(1, 2).flatten(2))
        return out_BLD


class FiberTextEncoder(nn.Module):
    """Token ids to one vector per token.

    vocab_size    ids of the tokenizer; `mask_id` of its mask, vocab_size itself (a further row) if it has none
    length        most tokens of a text
    image_widths  channels of the map that each of the last layers reads; as many as there are fused layers
    eps           of the norms: 1e-5 in RoBERTa
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        mask_id: int | None = None,
        length: int = 512,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        eps: float = 1e-5,
        image_widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if len(image_widths) > layers:
            raise ConfigError(f"{len(image_widths)} fused layers of {layers} (expected at most all layers of the text)")
        self.mask_id = vocab_size if mask_id is None else mask_id
        self.spec: dict[str, Any] = {
            "vocab_size": vocab_size, "mask_id": mask_id, "length": length, "width": width, "layers": layers, "heads": heads,
            "mlp_ratio": mlp_ratio, "dropout": dropout, "eps": eps, "image_widths": list(image_widths),
        }  # fmt: skip
        self.vocab_size, self.length, self.width, self.dropout = vocab_size, length, width, dropout
        self.words = nn.Embedding(max(vocab_size, self.mask_id + 1), width)
        self.position_LD = nn.Parameter(torch.empty(length, width))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.first = layers - len(image_widths)
        self.blocks = nn.ModuleList(
            FiberTextBlock(
                width,
                heads,
                mlp_width=int(width * mlp_ratio),
                dropout=dropout,
                eps=eps,
                image_width=None if layer < self.first else image_widths[layer - self.first],
            )
            for layer in range(layers)
        )
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.position_LD, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def rows(self) -> int:
        """Words that a guess is made among."""
        return self.words.num_embeddings

    def begun(self, text_BL: Tensor, may: Tensor) -> Tensor:
        """[B, L, D] before the first layer that may read a picture."""
        if text_BL.shape[1] > self.length:
            raise ShapeError(f"texts must be ids [B, L] with L up to {self.length}, got {list(text_BL.shape)}")
        x_BLD = F.dropout(self.norm(self.words(text_BL) + self.position_LD[: text_BL.shape[1]]), self.dropout, self.training)
        return self._through(x_BLD, may, 0, self.first)

    def finished(self, x_BLD: Tensor, may: Tensor) -> Tensor:
        """Output of `begun` after the last layers without a picture."""
        return self._through(x_BLD, may, self.first, len(self.blocks))

    def fuse(self, number: int, x_BLD: Tensor, may: Tensor, image_BPC: Tensor, *, normed: bool = True) -> Tensor:
        """The fused layer of that number."""
        out_BLD: Tensor = self.blocks[self.first + number](x_BLD, may, image_BPC, normed=normed)
        return out_BLD

    def gate(self, number: int) -> GatedCrossAttention:
        """The cross-attention of the fused layer of that number."""
        gate = self.blocks[self.first + number].gate
        assert isinstance(gate, GatedCrossAttention)
        return gate

    def _through(self, x_BLD: Tensor, may: Tensor, start: int, stop: int) -> Tensor:
        for block in self.blocks[start:stop]:
            x_BLD = block(x_BLD, may)
        return x_BLD


def self_attention_mask(mask_BL: Tensor, *, causal: bool = False) -> Tensor:
    """Who may be read, [B, 1, 1 or L, L]: real tokens, and with `causal` none that stands later."""
    may = mask_BL[:, None, None, :]
    if not causal:
        return may
    length = mask_BL.shape[1]
    return may & torch.ones(length, length, dtype=torch.bool, device=mask_BL.device).tril()
