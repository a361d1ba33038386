"""CLIP's text transformer (2103.00020), and the small ones like it.  Letters: B batch, L tokens, D width, V vocabulary."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.outputs import Tokens, Tower
from diptych.models.pooling import first_position, last_real, mean_pool, pool_at
from diptych.models.transformer import Transformer

Pooling = Literal["eot", "mean"]


class TextTransformer(Tower):
    """Token ids [B, L] or token embeddings [B, L, D] to one vector a word and one a text; L at most `length`.

    pooling "eot"  the vector at the first `eot_id` (with embeddings: at the last real token). `eot_id` is never guessed from the
                   size of the ids, so any vocabulary works.
    pooling "mean" the mean over real tokens
    causal         each token reads itself and earlier ones, as published; padding behind the text is then never read
    """

    def __init__(
        self,
        *,
        vocab_size: int = 49408,
        length: int = 77,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        act: str = "gelu",
        causal: bool = True,
        pooling: Pooling = "eot",
        eot_id: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("eot", "mean"):
            raise ConfigError(f"unknown pooling {pooling!r} (expected eot | mean)")
        if pooling == "eot" and eot_id is None:
            raise ConfigError("pooling 'eot' needs the id of the end-of-text token: pass eot_id (a tokenizer's .eot_id)")
        if eot_id is not None and not 0 <= eot_id < vocab_size:
            raise ConfigError(f"eot_id {eot_id} is outside the vocabulary (expected 0..{vocab_size - 1})")
        self.width, self.length = width, length
        self.causal, self.pooling, self.eot_id = causal, pooling, eot_id
        self.embed = nn.Embedding(vocab_size, width)
        self.position_LD = nn.Parameter(torch.empty(length, width))
        self.transformer = Transformer(width, layers, heads, mlp_ratio=mlp_ratio, act=act)
        self.norm_after = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position_LD, std=0.01)

    def forward(self, text: Tensor, mask_BL: Tensor | None = None) -> Tokens:
        """`mask_BL` is True at real tokens. Without it all tokens are real, or with pooling "eot" those up to the end."""
        if text.ndim not in (2, 3) or not 0 < text.shape[1] <= self.length:
            raise ShapeError(
                f"texts must be ids [B, L] or embeddings [B, L, D] with L up to {self.length}, got {list(text.shape)}"
            )
        embedded_BLD = self.embed(text) if text.ndim == 2 else text
        x_BLD = embedded_BLD + self.position_LD[: text.shape[1]]
        # Under a causal mask nothing before the end can see the padding behind it, so the padding mask would only cost time.
        reads_mask = None if self.causal and self.pooling == "eot" else mask_BL
        x_BLD = self.norm_after(self.transformer(x_BLD, reads_mask, causal=self.causal))
        end_B = self._end(text, mask_BL) if self.pooling == "eot" else None
        if mask_BL is None:
            places_L = torch.arange(text.shape[1], device=text.device)
            mask_BL = places_L.expand(text.shape[0], -1) <= (end_B[:, None] if end_B is not None else self.length)
        return Tokens(x_BLD, mask_BL, mean_pool(x_BLD, mask_BL) if end_B is None else pool_at(x_BLD, end_B))

    def _end(self, text: Tensor, mask_BL: Tensor | None) -> Tensor:
        if text.ndim == 2 and self.eot_id is not None:
            return first_position(text, self.eot_id)
        if mask_BL is None:
            return torch.full((text.shape[0],), text.shape[1] - 1, device=text.device)
        return last_real(mask_BL)
