"""CLIP's text transformer (2103.00020) and smaller variants.  Letters: B batch, L tokens, D width, V vocabulary."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.initialisation import Start
from diptych.models.layers.pooling import first_position, last_real, mean_pool, pool_at
from diptych.models.layers.transformer import Transformer
from diptych.models.towers.outputs import Tower, TowerOutput

Pooling = Literal["eot", "largest", "mean", "last"]


class TextTransformer(Tower):
    """Text transformer on token ids [B, L] or embeddings [B, L, D]: a vector per token and one per text; L is at most `length`.

    pooling "eot"  the vector at the first `eot_id` (with embeddings: at the last real token).
    `eot_id` is never inferred from the ids, so any vocabulary works. pooling "largest" the vector at the first position of the
                    largest id, as in OpenAI's code: the end only if its id is the last one. For weights that were trained in this
    way with another vocabulary pooling "mean" the mean over real tokens pooling "last" the vector at the last of `length`
                   positions, padding or not: shorter texts are padded with `pad_id`,
    and padding is attended to like any token (SigLIP, 2303.15343)
    causal         each token attends to itself and earlier ones, as published; padding after the text is then never attended to
    positions      "learned", or "sine": fixed sinusoids, sines before cosines (TIPS, 2410.16512)
    scaled         word embeddings are multiplied by the square root of the width, as with fixed sinusoids (TIPS)
    start          initialisation of blocks (`layers/initialisation.py`): "clip", or "spread" as CLIP's code;
                   with "xavier" word and position embeddings, too, are initialised as for SigLIP and TIPS,
    normal with deviation width^-1/2
    dropout        of the blocks in training, also in the attention
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
        pad_id: int | None = None,
        eps: float = 1e-5,
        positions: Literal["learned", "sine"] = "learned",
        scaled: bool = False,
        start: Start = "clip",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if positions not in ("learned", "sine"):
            raise ConfigError(f"unknown positions {positions!r} (expected learned | sine)")
        if pooling not in get_args(Pooling):
            raise ConfigError(f"unknown pooling {pooling!r} (expected {' | '.join(get_args(Pooling))})")
        if pooling == "eot" and eot_id is None:
            raise ConfigError("pooling 'eot' needs the id of the end-of-text token: pass eot_id (a tokenizer's .eot_id)")
        if eot_id is not None and not 0 <= eot_id < vocab_size:
            raise ConfigError(f"eot_id {eot_id} is outside the vocabulary (expected 0..{vocab_size - 1})")
        if pooling == "last" and (pad_id is None or not 0 <= pad_id < vocab_size):
            raise ConfigError(f"pooling 'last' needs the id of padding, 0..{vocab_size - 1}: pass pad_id (a tokenizer's .pad_id)")
        self.width, self.length = width, length
        self.causal, self.pooling, self.eot_id, self.pad_id = causal, pooling, eot_id, pad_id
        self.embed = nn.Embedding(vocab_size, width)
        self.factor = width**0.5 if scaled else 1.0
        self.position_LD: Tensor
        if positions == "sine":
            self.register_buffer("position_LD", sinusoidal_positions(length, width), persistent=False)
        else:
            self.position_LD = nn.Parameter(torch.empty(length, width))
        blocks: dict[str, Any] = {"start": start, "dropout": dropout, "attention_dropout": dropout}
        self.transformer = Transformer(width, layers, heads, mlp_ratio=mlp_ratio, act=act, eps=eps, **blocks)
        self.norm_after = nn.LayerNorm(width, eps=eps)
        wide = start == "xavier"
        nn.init.normal_(self.embed.weight, std=width**-0.5 if wide else 0.02)
        if positions == "learned":
            nn.init.normal_(self.position_LD, std=width**-0.5 if wide else 0.01)

    @property
    def ignores_padding(self) -> bool:
        """True if the pooled vector does not depend on padding; with pooling "last" or gates of adapters it does."""
        return self.pooling != "last" and not getattr(self.transformer, "reads_padding", False)

    def forward(self, text: Tensor, mask_BL: Tensor | None = None) -> TowerOutput:
        """`mask_BL` is True at real tokens. Without it all tokens are real, or with pooling "eot" those up to the end."""
        if text.ndim not in (2, 3) or not 0 < text.shape[1] <= self.length:
            raise ShapeError(
                f"texts must be ids [B, L] or embeddings [B, L, D] with L up to {self.length}, got {list(text.shape)}"
            )
        if self.pooling == "last":
            return self._read_to_the_end(text, mask_BL)
        embedded_BLD = self.embed(text) if text.ndim == 2 else text
        x_BLD = self.factor * embedded_BLD + self.position_LD[: text.shape[1]]
        # With a causal mask, no token attends to later padding, so the padding mask would only cost time; gates of
        # adapters read it.
        ends = self.pooling in ("eot", "largest")
        reads_mask = None if self.causal and ends and self.ignores_padding else mask_BL
        x_BLD = self.norm_after(self.transformer(x_BLD, reads_mask, causal=self.causal))
        end_B = self._end(text, mask_BL) if ends else None
        if mask_BL is None:
            places_L = torch.arange(text.shape[1], device=text.device)
            mask_BL = places_L.expand(text.shape[0], -1) <= (end_B[:, None] if end_B is not None else self.length)
        return TowerOutput(x_BLD, mask_BL, mean_pool(x_BLD, mask_BL) if end_B is None else pool_at(x_BLD, end_B))

    def _read_to_the_end(self, text: Tensor, mask_BL: Tensor | None) -> TowerOutput:
        """Encode all `length` positions, including padding; the returned tokens are as many as the given ones."""
        count, given = text.shape[:2]
        x_BLD = self.embed(text) if text.ndim == 2 else text
        if mask_BL is None:
            mask_BL = text.ne(int(self.pad_id or 0)) if text.ndim == 2 else torch.ones_like(text[..., 0], dtype=torch.bool)
        if given < self.length:
            padding = torch.full((count, self.length - given), int(self.pad_id or 0), device=text.device)
            x_BLD = torch.cat([x_BLD, self.embed(padding).to(x_BLD.dtype)], dim=1)
        x_BLD = self.norm_after(self.transformer(self.factor * x_BLD + self.position_LD, causal=self.causal))
        return TowerOutput(x_BLD[:, :given], mask_BL, x_BLD[:, -1])

    def _end(self, text: Tensor, mask_BL: Tensor | None) -> Tensor:
        if text.ndim == 2 and self.pooling == "largest":
            return text.argmax(1)
        if text.ndim == 2 and self.eot_id is not None:
            return first_position(text, self.eot_id)
        if mask_BL is None:
            return torch.full((text.shape[0],), text.shape[1] - 1, device=text.device)
        return last_real(mask_BL)


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Return sines, then cosines, of each position [L, D]: each half of the width has periods from 2 pi to 10,000 times that.

    >>> [round(value, 4) for value in sinusoidal_positions(2, 4)[1].tolist()]
    [0.8415, 0.0001, 0.5403, 1.0]
    """
    half = width // 2
    speed_H = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000.0) / max(half - 1, 1)))
    angle_LH = torch.arange(length, dtype=torch.float32)[:, None] * speed_H
    wave_LD = torch.cat([angle_LH.sin(), angle_LH.cos()], 1)
    return torch.nn.functional.pad(wave_LD, (0, width % 2))
