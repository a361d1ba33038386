"""Masked image attention of MS-Diffusion and RelationBooth: beside the text, each position of the latents attends to the tokens of those
reference pictures whose box it lies in.

Letters: B batch, R reference pictures, Q positions of the latents, M image tokens, L text tokens, D width, H W.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ShapeError
from diptych.models.diffusion.settings import diffusers_library

CLOSED = -10_000.0
"""Added to scores of what may not be attended to."""


def box_cells(box_BR4: Tensor, height: int, width: int) -> Tensor:
    """bool [B, R, height, width]: cells that boxes touch, from floor(x0 W) up to ceil(x1 W), the end left out; an empty box has none.

    >>> box_cells(torch.tensor([[[0.0, 0.2, 0.55, 0.85]]]), 8, 8)[0, 0].int().sum(1).tolist()
    [0, 5, 5, 5, 5, 5, 5, 0]
    """
    x0_BR, y0_BR, x1_BR, y1_BR = box_BR4.unbind(-1)
    column_W, row_H = torch.arange(width, device=box_BR4.device), torch.arange(height, device=box_BR4.device)
    in_x = (column_W >= (x0_BR * width).floor()[..., None]) & (column_W < (x1_BR * width).ceil()[..., None])
    in_y = (row_H >= (y0_BR * height).floor()[..., None]) & (row_H < (y1_BR * height).ceil()[..., None])
    return in_y[..., :, None] & in_x[..., None, :]


def region_bias(box_BR4: Tensor, height: int, width: int, tokens: int, dummies: int) -> tuple[Tensor, Tensor]:
    """Bias [B, Q, dummies + R tokens] of image attention, 0 or `CLOSED`, and which positions [B, Q] lie in no box.

    A position in the box of a picture may attend to the `tokens` of that picture, a position in no box to the `dummies`.
    """
    inside_BQR = box_cells(box_BR4, height, width).flatten(2).transpose(1, 2)
    outside_BQ = ~inside_BQR.any(-1)
    open_BQM = torch.cat([outside_BQ[..., None].expand(-1, -1, dummies), inside_BQR.repeat_interleave(tokens, -1)], -1)
    return torch.where(open_BQM, 0.0, CLOSED), outside_BQ


class RegionAttention(nn.Module):
    """Processor of a cross-attention of diffusers: text attention, plus `scale` times attention to image tokens within boxes.

    The condition holds `text_tokens` states of the text and after them the dummies and the tokens of each reference picture. Attention
    keyword arguments of a call: `boxes` [B, R, 4] as shares, `latent_size` (H, W) of the whole latents, `predicate` [B, 2] half-open
    token span, and `maps`, a list that gets the attention of those tokens [B, h, w], heads and tokens averaged, of layers with at most
    `map_side`^2 positions. Without `boxes` the image tokens are not read.

    square     layers are taken for square, as released; else they have the latents' aspect
    background "none": no image attention outside the boxes, as released; "dummies": the dummies are read there
    """

    def __init__(
        self,
        width: int,
        condition_width: int,
        *,
        tokens: int = 16,
        dummies: int = 4,
        text_tokens: int = 77,
        scale: float = 0.6,
        map_side: int = 32,
        square: bool = False,
        background: str = "none",
    ) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(condition_width, width, bias=False)
        self.to_v_ip = nn.Linear(condition_width, width, bias=False)
        self.tokens, self.dummies, self.text_tokens, self.scale = tokens, dummies, text_tokens, scale
        self.map_side, self.square, self.background = map_side, square, background

    def __call__(  # diffusers reads which keyword arguments there are
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        boxes: Tensor | None = None,
        latent_size: tuple[int, int] | None = None,
        predicate: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        if encoder_hidden_states is None or hidden_states.ndim != 3:
            raise ShapeError("region attention reads states [B, Q, D] and a condition (expected a cross-attention)")
        text_BLD = encoder_hidden_states[:, : self.text_tokens]
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = (attn.head_to_batch_dim(part(text_BLD)) for part in (attn.to_k, attn.to_v))
        share = attn.get_attention_scores(query, key)
        out = attn.batch_to_head_dim(torch.bmm(share, value))
        grid = (0, 0) if boxes is None and maps is None else self._grid(hidden_states.shape[1], latent_size)
        height, width = grid
        if maps is not None and predicate is not None and height * width <= self.map_side**2:
            maps.append(span_maps(share.unflatten(0, (-1, attn.heads)), predicate).unflatten(1, (height, width)))
        if boxes is not None:
            out = out + self.scale * self._image(attn, query, encoder_hidden_states[:, self.text_tokens :], boxes, height, width)
        projected: Tensor = attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor
        return projected

    def _image(self, attn: Any, query: Tensor, image_BMD: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
        bias_BQM, outside_BQ = region_bias(boxes, height, width, self.tokens, self.dummies)
        bias = bias_BQM.to(query.dtype).repeat_interleave(attn.heads, 0)
        key, value = (attn.head_to_batch_dim(part(image_BMD)) for part in (self.to_k_ip, self.to_v_ip))
        share = attn.get_attention_scores(query, key, bias)
        if self.background == "none":
            share = share.masked_fill(outside_BQ.repeat_interleave(attn.heads, 0)[..., None], 0.0)
        out: Tensor = attn.batch_to_head_dim(torch.bmm(share, value))
        return out

    def _grid(self, positions: int, latent_size: tuple[int, int] | None) -> tuple[int, int]:
        if self.square or latent_size is None:
            side = math.isqrt(positions)
            height, width = side, side
        else:
            height = round(math.sqrt(positions * latent_size[0] / latent_size[1]))
            width = positions // max(1, height)
        if height * width != positions:
            raise ShapeError(f"{positions} positions are not a grid of latents {latent_size} (expected sides that halve evenly)")
        return height, width


def span_maps(share_BHQL: Tensor, span_B2: Tensor) -> Tensor:
    """Attention [B, Q] to a half-open span of text tokens, mean over its tokens and over heads; zeros for an empty span."""
    token_L = torch.arange(share_BHQL.shape[-1], device=share_BHQL.device)
    inside_BL = ((token_L >= span_B2[:, :1]) & (token_L < span_B2[:, 1:])).to(share_BHQL.dtype)
    weight_BL = inside_BL / inside_BL.sum(1, keepdim=True).clamp(min=1.0)
    return torch.einsum("bhql,bl->bhq", share_BHQL, weight_BL).mean(1)


class SelfAttention:
    """The library's processor of self-attention, called with the keyword arguments of `RegionAttention`, which it does not read."""

    def __init__(self) -> None:
        diffusers_library()
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.inner: Any = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        boxes: Tensor | None = None,
        latent_size: tuple[int, int] | None = None,
        predicate: Tensor | None = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        out: Tensor = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return out


def with_region_attention(unet: Any, **settings: Any) -> list[RegionAttention]:
    """Give every cross-attention of a UNet a `RegionAttention`, and list them in the order of `unet.attn_processors`. Their projections
    start as those of the text.

    settings    arguments of `RegionAttention`
    """
    processors: dict[str, Any] = {}
    regions = []
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            processors[name] = SelfAttention()
            continue
        attn = unet.get_submodule(name.removesuffix(".processor"))
        region = RegionAttention(attn.to_k.weight.shape[0], attn.to_k.weight.shape[1], **settings)
        with torch.no_grad():
            region.to_k_ip.weight.copy_(attn.to_k.weight)
            region.to_v_ip.weight.copy_(attn.to_v.weight)
        regions.append(region)
        processors[name] = region
    unet.set_attn_processor(processors)
    return regions
