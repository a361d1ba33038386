"""Decoders of boxes and masks from the states of reference tokens (REF-VLM, 2503.07413).

Both are DETR's decoder (2005.12872) over feature maps, without an encoder and without classes: each state is a query, one per
target. Queries are padded with zeros to a fixed number, and attend to padding as to any other query, as released;
`open_padding` False masks it.

Letters: B batch, R references, Q queries (padded), C channels, H W, M positions of the memory, D width, E width of states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.maskformer.modeling_maskformer import MaskFormerPixelDecoder

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.mlp import MLP
from diptych.models.layers.sine_position import map_sine


@dataclass(frozen=True, slots=True)
class DecoderSize:
    """Sizes of the decoders.

    box_queries, mask_queries, point_queries  number of decoded references per row, padding included
    width, heads, mlp_width, layers  of the decoder layers
    dropout       of their outputs
    mask_width    of mask features and of the pyramid before them, a multiple of 32
    open_padding  queries attend to padding queries
    """

    box_queries: int = 100
    mask_queries: int = 30
    point_queries: int = 100
    width: int = 256
    heads: int = 8
    mlp_width: int = 2048
    layers: int = 6
    dropout: float = 0.1
    mask_width: int = 256
    open_padding: bool = True

    def __post_init__(self) -> None:
        if (
            min(self.box_queries, self.mask_queries, self.point_queries, self.layers) < 1
            or self.width % (2 * self.heads)
            or self.mask_width % 32
        ):
            raise ConfigError(
                f"box_queries {self.box_queries}, mask_queries {self.mask_queries}, point_queries {self.point_queries}, "
                f"layers {self.layers}, width {self.width}, mask_width "
                f"{self.mask_width} (expected 1 or more; a multiple of twice the heads; a multiple of 32)"
            )


class PositionedAttention(nn.Module):
    """Multi-head attention whose keys are the values plus positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query_BQD: Tensor, key_BMD: Tensor, value_BMD: Tensor, open_BM: Tensor | None = None) -> Tensor:
        """`open_BM` is True for keys that may be attended to."""
        pairs = ((self.q_proj, query_BQD), (self.k_proj, key_BMD), (self.v_proj, value_BMD))
        query, key, value = (layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, given in pairs)
        mask = None if open_BM is None else open_BM[:, None, None]
        read_BHQE = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out_BQD: Tensor = self.out_proj(read_BHQE.transpose(1, 2).flatten(2))
        return out_BQD


class DetrDecoderLayer(nn.Module):
    """DETR's decoder layer, post-norm: self-attention of queries, cross-attention to the memory, feed-forward network."""

    def __init__(self, size: DecoderSize) -> None:
        super().__init__()
        self.self_attn, self.encoder_attn = (PositionedAttention(size.width, size.heads) for _ in range(2))
        self.self_attn_layer_norm, self.encoder_attn_layer_norm, self.final_layer_norm = (
            nn.LayerNorm(size.width) for _ in range(3)
        )
        self.fc1, self.fc2 = nn.Linear(size.width, size.mlp_width), nn.Linear(size.mlp_width, size.width)
        self.dropout = nn.Dropout(size.dropout)

    def forward(
        self, x_BQD: Tensor, position_QD: Tensor, memory_BMD: Tensor, place_1MD: Tensor, open_BQ: Tensor | None
    ) -> Tensor:
        query_BQD = x_BQD + position_QD
        x_BQD = self.self_attn_layer_norm(x_BQD + self.dropout(self.self_attn(query_BQD, query_BQD, x_BQD, open_BQ)))
        read_BQD = self.encoder_attn(x_BQD + position_QD, memory_BMD + place_1MD, memory_BMD)
        x_BQD = self.encoder_attn_layer_norm(x_BQD + self.dropout(read_BQD))
        changed_BQD: Tensor = self.final_layer_norm(x_BQD + self.dropout(self.fc2(F.relu(self.fc1(x_BQD)))))
        return changed_BQD


class DetrDecoder(nn.Module):
    """Decoder layers and a final norm; linear layers are initialised with deviation 0.02, as in DETR of transformers."""

    def __init__(self, size: DecoderSize) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DetrDecoderLayer(size) for _ in range(size.layers))
        self.layernorm = nn.LayerNorm(size.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_BQD: Tensor, position_QD: Tensor, memory_BDHW: Tensor, open_BQ: Tensor | None = None) -> Tensor:
        mask_1HW = torch.ones((1, *memory_BDHW.shape[-2:]), dtype=torch.bool, device=x_BQD.device)
        place_1MD = map_sine(mask_1HW, memory_BDHW.shape[1], centred=False).to(x_BQD)
        memory_BMD = memory_BDHW.flatten(2).mT
        for layer in self.layers:
            x_BQD = layer(x_BQD, position_QD, memory_BMD, place_1MD, open_BQ)
        decoded_BQD: Tensor = self.layernorm(x_BQD)
        return decoded_BQD


class StateQueries(nn.Module):
    """Decodes states of references as queries, padded to a fixed number."""

    def __init__(self, states: int, size: DecoderSize, queries: int) -> None:
        super().__init__()
        self.size = size
        self.map = nn.Linear(states, size.width)
        self.position = nn.Embedding(queries, size.width)
        self.decoder = DetrDecoder(size)

    def forward(self, state_BRE: Tensor, open_BR: Tensor, memory_BDHW: Tensor) -> Tensor:
        """Return [B, R, D] for states [B, R, E] that are real where `open_BR` is True.
        Raises ShapeError if there are more than queries.
        """
        return self.padded(state_BRE, open_BR, memory_BDHW)[0][:, : state_BRE.shape[1]]

    def padded(self, state_BRE: Tensor, open_BR: Tensor, memory_BDHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return [B, Q, D], padding included, and which queries may be attended to; None for all."""
        given, queries = state_BRE.shape[1], self.position.num_embeddings
        if given > queries:
            raise ShapeError(f"{given} references of a row for a decoder of {queries} queries (expected that many at most)")
        state_BRE = state_BRE.masked_fill(~open_BR[..., None], 0)
        query_BQD = self.map(F.pad(state_BRE, (0, 0, 0, queries - given)))
        open_BQ = None
        if not self.size.open_padding:
            open_BQ = F.pad(open_BR, (0, queries - given))
            open_BQ = open_BQ | ~open_BQ.any(1, keepdim=True)  # rows without references attend to padding
        decoded_BQD: Tensor = self.decoder(query_BQD, self.position.weight, memory_BDHW, open_BQ)
        return decoded_BQD, open_BQ


class TargetBoxDecoder(nn.Module):
    """Box decoder: the memory is the maps, resized to the first one's size and concatenated;
    the head is three linear layers and a sigmoid.

    channels  of the maps, finest first
    states    width of a state
    """

    def __init__(self, channels: Sequence[int], states: int, size: DecoderSize) -> None:
        super().__init__()
        self.visual = nn.Linear(sum(channels), size.width)
        self.queries = StateQueries(states, size, size.box_queries)
        self.predictor = MLP((size.width, size.width, size.width, 4))

    def forward(self, maps: Sequence[Tensor], state_BRE: Tensor, open_BR: Tensor) -> Tensor:
        """Return boxes [B, R, 4], cxcywh in 0..1."""
        box_BR4: Tensor = self.predictor(self.queries(state_BRE, open_BR, self.memory(maps))).sigmoid()
        return box_BR4

    def memory(self, maps: Sequence[Tensor], visual: nn.Linear | None = None) -> Tensor:
        """Return the memory [B, D, H, W] of the maps, by `visual` or the decoder's own layer."""
        side = maps[0].shape[-2:]
        joined_BCHW = torch.cat([F.interpolate(one, size=side, mode="bilinear", align_corners=False) for one in maps], 1)
        memory_BDHW: Tensor = (visual or self.visual)(joined_BCHW.movedim(1, -1)).movedim(-1, 1)
        return memory_BDHW


class TargetMaskDecoder(nn.Module):
    """Mask decoder: the product of queries with the features of MaskFormer's pyramid (2107.06278); the memory is the last map.

    channels  of the maps, finest first, two or more
    states    width of a state
    """

    def __init__(self, channels: Sequence[int], states: int, size: DecoderSize) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ConfigError(f"{len(channels)} feature maps for masks (expected two or more)")
        width = size.mask_width
        self.pixels = MaskFormerPixelDecoder(
            in_features=channels[-1], feature_size=width, mask_feature_size=width, lateral_widths=list(channels[:-1])
        )
        self.visual = nn.Conv2d(channels[-1], size.width, 1) if channels[-1] != size.width else nn.Identity()
        self.queries = StateQueries(states, size, size.mask_queries)
        self.embedder = MLP((size.width, size.width, size.width, width))

    def forward(self, maps: Sequence[Tensor], state_BRE: Tensor, open_BR: Tensor) -> Tensor:
        """Return mask logits [B, R, H, W] at the size of the first map."""
        pixel_BDHW = self.pixels(list(maps)).last_hidden_state
        embedded_BRD = self.embedder(self.queries(state_BRE, open_BR, self.visual(maps[-1])))
        return torch.einsum("brd,bdhw->brhw", embedded_BRD, pixel_BDHW)
