"""Image prompts as tokens: a perceiver resampler whose queries are made from a phrase and a box (MS-Diffusion, 2406.07209).

Names of parameters are those of the released checkpoints (`image_proj` of ms_adapter.bin), which load as they are.
Letters: B pictures, P tokens of a picture, Q queries, D width, F frequencies.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class FourierBoxes(nn.Module):
    """Sines and cosines of box coordinates at F frequencies 100^(f / F): [B, 4] to [B, 8 F], by frequency, sine or cosine, coordinate."""

    frequency_F: Tensor

    def __init__(self, frequencies: int = 8, temperature: float = 100.0) -> None:
        super().__init__()
        self.register_buffer("frequency_F", temperature ** (torch.arange(frequencies) / frequencies), persistent=False)

    def forward(self, box_B4: Tensor) -> Tensor:
        angle_B4F = box_B4[..., None] * self.frequency_F
        return torch.stack([angle_B4F.sin(), angle_B4F.cos()], -1).permute(0, 2, 3, 1).flatten(1)


class PerceiverAttention(nn.Module):
    """Queries attend to the tokens of a picture and to each other."""

    def __init__(self, width: int, heads: int, head_width: int = 64) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, token_BPD: Tensor, query_BQD: Tensor) -> Tensor:
        token_BPD, query_BQD = self.norm1(token_BPD), self.norm2(query_BQD)
        query = self._split(self.to_q(query_BQD))
        key, value = (self._split(part) for part in self.to_kv(torch.cat([token_BPD, query_BQD], 1)).chunk(2, -1))
        scale = 1 / math.sqrt(math.sqrt(self.head_width))
        share = ((query * scale) @ (key * scale).transpose(-2, -1)).float().softmax(-1).to(value.dtype)
        out: Tensor = self.to_out((share @ value).transpose(1, 2).flatten(2))
        return out

    def _split(self, x_BND: Tensor) -> Tensor:
        split_BHNd: Tensor = x_BND.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)
        return split_BHNd


class GroundedResampler(nn.Module):
    """Tokens of a picture, a phrase vector and a box to Q tokens that an image attention reads.

    width, depth, heads, head_width, queries, mult   of the resampler
    image_width, phrase_width, out_width             of what goes in and comes out
    """

    def __init__(
        self,
        *,
        width: int = 1280,
        depth: int = 4,
        heads: int = 20,
        head_width: int = 64,
        queries: int = 16,
        mult: int = 4,
        image_width: int = 1664,
        phrase_width: int = 768,
        out_width: int = 2048,
        frequencies: int = 8,
    ) -> None:
        super().__init__()
        self.queries, self.width = queries, width
        self.grounding_latents = nn.Parameter(torch.randn(1, queries, width) / width**0.5)
        self.fourier_embedder = FourierBoxes(frequencies)
        grounding = phrase_width + 8 * frequencies
        self.latent_proj = nn.Sequential(
            nn.Linear(grounding, 2 * grounding), nn.GELU(), nn.Linear(2 * grounding, width * queries)
        )
        self.latent_norm = nn.LayerNorm(width)
        self.proj_in, self.attention_norm = nn.Linear(image_width, width), nn.LayerNorm(width)
        self.proj_out, self.norm_out = nn.Linear(width, out_width), nn.LayerNorm(out_width)
        self.layers: Any = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(width, heads, head_width), _feed_forward(width, mult)]) for _ in range(depth)
        )

    def forward(self, token_BPD: Tensor, phrase_BD: Tensor, box_B4: Tensor, *, dropped_B: Tensor | None = None) -> Tensor:
        """Tokens [B, Q, D]. `dropped_B`: True where the learned queries take the place of those of phrase and box."""
        grounding_BD = torch.cat([phrase_BD, self.fourier_embedder(box_B4).to(phrase_BD.dtype)], -1)
        query_BQD = self.latent_norm(self.latent_proj(grounding_BD).unflatten(-1, (self.queries, self.width)))
        if dropped_B is not None:
            query_BQD = torch.where(dropped_B[:, None, None], self.grounding_latents.to(query_BQD.dtype), query_BQD)
        token_BPD = self.proj_in(token_BPD)
        for attention, feed_forward in self.layers:
            query_BQD = attention(token_BPD, query_BQD) + query_BQD
            query_BQD = feed_forward(query_BQD) + query_BQD
        out_BQD: Tensor = self.norm_out(self.proj_out(self.attention_norm(query_BQD)))
        return out_BQD


def _feed_forward(width: int, mult: int) -> nn.Sequential:
    inner = width * mult
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False))
