"""Adapters in the frozen blocks of a tower: bottleneck adapters, prefix tuning, and UniPELT, which gates both and LoRA.

    pfeiffer  x + m + up(relu(down(x + m))), m the output of the MLP and x its residual (Pfeiffer et al., 2021, 2005.00247)
    houlsby   m + up(swish(down(m))) after attention and MLP, before the residual is added (Houlsby et al., 2019, 1902.00751)
    prefix    further keys and values in each block, for all tokens: an embedding through two layers (Li & Liang,
    2021,
              2101.00190)
    unipelt   prefix, pfeiffer and low-rank maps of queries and values, each times a gate: the mean over tokens of sigmoid(W x)
              (Mao et al., 2022, 2110.07577)

Defaults and initialisation are those of AdapterHub's library for CLIP. As there, a gated low-rank map is not multiplied by
alpha / rank, and padding counts in the mean over tokens, so a text tower with gates reads its full length. Unlike LoRA, none of
these can be merged into the weights: the model keeps them.

Letters: B batch, L tokens, D width, H heads, E width of a head, P prefix positions.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.layers.attention import Attention, attention_mask
from diptych.models.layers.transformer import Block, Transformer
from diptych.models.towers.outputs import Tower

AdapterKind = Literal["pfeiffer", "houlsby", "prefix", "unipelt"]
MARK = "adapter_"
"""Substring of the name of every module here, and of no other module of a tower with a `Transformer`."""
PLACES = {"prefix": 30, "unipelt": 10}
RANK = 8


@dataclass(frozen=True, slots=True)
class BlockAdapterConfig:
    """reduction  the width of a bottleneck is the tower's divided by this
    length     prefix positions; 0: 30, or 10 for UniPELT
    hidden     width between the two layers of a prefix
    rank       of UniPELT's low-rank maps
    """

    kind: AdapterKind
    reduction: int = 16
    length: int = 0
    hidden: int = 512
    rank: int = RANK

    def __post_init__(self) -> None:
        if self.kind not in get_args(AdapterKind):
            raise ConfigError(f"adapter is {self.kind!r} (expected {' | '.join(get_args(AdapterKind))})")
        if min(self.reduction, self.hidden, self.rank) < 1 or self.length < 0:
            raise ConfigError(
                f"reduction {self.reduction}, hidden {self.hidden}, rank {self.rank}, length {self.length} (expected 1 or more; 0 or more)"
            )


class BottleneckModule(nn.Module):
    """Bottleneck up(act(down(x))), with a gate if `gated`; the caller adds the residual."""

    def __init__(self, width: int, reduction: int, act: nn.Module, *, gated: bool) -> None:
        super().__init__()
        self.down, self.act = nn.Linear(width, max(1, width // reduction)), act
        self.up = nn.Linear(self.down.out_features, width)
        self.gate = nn.Linear(width, 1) if gated else None
        for layer in (self.down, self.up, *([self.gate] if self.gate is not None else [])):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        changed_BLD: Tensor = self.up(self.act(self.down(x_BLD)))
        return changed_BLD if self.gate is None else changed_BLD * mean_gate(self.gate, x_BLD)[..., None]


class GatedLowRank(nn.Module):
    """B A x times a gate; A random, B zero."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.a_RD, self.b_DR = nn.Parameter(torch.empty(rank, width)), nn.Parameter(torch.zeros(width, rank))
        self.gate = nn.Linear(width, 1)
        nn.init.kaiming_uniform_(self.a_RD, a=math.sqrt(5))
        nn.init.normal_(self.gate.weight, std=0.02)

    def forward(self, x_BLD: Tensor) -> Tensor:
        changed_BLD: Tensor = x_BLD @ self.a_RD.T @ self.b_DR.T * mean_gate(self.gate, x_BLD)[..., None]
        return changed_BLD


class Prefixes(nn.Module):
    """Prefix keys and values of every block, [blocks, 2, P, D], from an embedding through two layers."""

    def __init__(self, width: int, blocks: int, length: int, hidden: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.embed = nn.Embedding(length, width)
        self.maps = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, blocks * 2 * width))

    def forward(self) -> Tensor:
        made_PK: Tensor = self.maps(self.embed.weight)
        made_N2PD: Tensor = made_PK.unflatten(1, (2 * self.blocks, -1)).transpose(0, 1).unflatten(0, (self.blocks, 2))
        return made_N2PD


class AdaptedAttention(Attention):
    """Self-attention with a prefix and low-rank adapters of queries and values."""

    def __init__(self, base: Attention, config: BlockAdapterConfig) -> None:
        width = base.qkv.in_features
        super().__init__(width, base.heads, dropout=base.dropout)
        self.qkv, self.out = base.qkv, base.out
        gated = config.kind == "unipelt"
        self.adapter_queries = GatedLowRank(width, config.rank) if gated else None
        self.adapter_values = GatedLowRank(width, config.rank) if gated else None
        self.adapter_gate = nn.Linear(width, 1) if gated else None
        if self.adapter_gate is not None:
            nn.init.normal_(self.adapter_gate.weight, std=0.02)

    def read(self, x_BLD: Tensor, mask_BL: Tensor | None, prefix_2PD: Tensor, *, causal: bool) -> Tensor:
        """As `forward`, with the keys and values of a prefix before those of the tokens."""
        batch, length, width = x_BLD.shape
        q_BLD, k_BLD, v_BLD = self.qkv(x_BLD).split(width, -1)
        if self.adapter_queries is not None and self.adapter_values is not None:
            q_BLD, v_BLD = q_BLD + self.adapter_queries(x_BLD), v_BLD + self.adapter_values(x_BLD)
        prefix_2BPD = prefix_2PD[:, None].expand(2, batch, -1, -1).to(x_BLD.dtype)
        if self.adapter_gate is not None:
            prefix_2BPD = prefix_2BPD * mean_gate(self.adapter_gate, x_BLD)[..., None]
        k_BMD, v_BMD = torch.cat([prefix_2BPD[0], k_BLD], 1), torch.cat([prefix_2BPD[1], v_BLD], 1)
        q_BHLE, k_BHME, v_BHME = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q_BLD, k_BMD, v_BMD))
        may = attention_mask(mask_BL, length, causal=causal, device=x_BLD.device)
        if may is not None:
            may = may.expand(*may.shape[:-2], length, length)
            may = torch.cat([may.new_ones(*may.shape[:-1], prefix_2PD.shape[1]), may], -1)
        dropout = self.dropout if self.training else 0.0
        attended_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHME, v_BHME, attn_mask=may, dropout_p=dropout)
        out_BLD: Tensor = self.out(attended_BHLE.transpose(1, 2).flatten(2))
        return out_BLD


class AdaptedBlock(Block):
    """Block with adapters; the tensors of the block keep their names."""

    def __init__(self, base: Block, config: BlockAdapterConfig) -> None:
        nn.Module.__init__(self)
        width, self.kind = base.norm_1.normalized_shape[0], config.kind
        self.dropout, self.act_name, self.act = base.dropout, base.act_name, base.act
        self.norm_1, self.norm_2, self.mlp_in, self.mlp_out = base.norm_1, base.norm_2, base.mlp_in, base.mlp_out
        self.attention: Attention = (
            AdaptedAttention(base.attention, config) if config.kind in ("prefix", "unipelt") else base.attention
        )
        gated = config.kind == "unipelt"
        self.adapter_attention = (
            BottleneckModule(width, config.reduction, nn.SiLU(), gated=False) if config.kind == "houlsby" else None
        )
        act = nn.SiLU() if config.kind == "houlsby" else nn.ReLU()
        self.adapter_output = None if config.kind == "prefix" else BottleneckModule(width, config.reduction, act, gated=gated)

    def read(self, x_BLD: Tensor, mask_BL: Tensor | None, prefix_2PD: Tensor | None, *, causal: bool) -> Tensor:
        """As `forward`, with the keys and values of a prefix."""
        normed_BLD = self.norm_1(x_BLD)
        if prefix_2PD is None:
            attended_BLD = self.attention(normed_BLD, mask_BL, causal=causal)
        else:
            assert isinstance(self.attention, AdaptedAttention)
            attended_BLD = self.attention.read(normed_BLD, mask_BL, prefix_2PD, causal=causal)
        attended_BLD = self._dropped(attended_BLD)
        if self.adapter_attention is not None:
            attended_BLD = attended_BLD + self.adapter_attention(attended_BLD)
        x_BLD = x_BLD + attended_BLD
        mlp_BLD = self._dropped(self.mlp_out(self._dropped(self.act(self.mlp_in(self.norm_2(x_BLD))))))
        if self.adapter_output is None:
            return x_BLD + mlp_BLD
        entered_BLD = mlp_BLD if self.kind == "houlsby" else x_BLD + mlp_BLD
        changed_BLD: Tensor = self.adapter_output(entered_BLD)
        return x_BLD + mlp_BLD + changed_BLD


class AdaptedTransformer(Transformer):
    """Stack of blocks with adapters, and their prefixes."""

    def __init__(self, base: Transformer, config: BlockAdapterConfig) -> None:
        nn.Module.__init__(self)
        self.width, self.start, self.reads_padding = base.width, base.start, config.kind == "unipelt"
        self.blocks = nn.ModuleList(AdaptedBlock(block, config) for block in base.blocks if isinstance(block, Block))
        length = config.length or PLACES.get(config.kind, 0)
        self.adapter_prefixes = Prefixes(base.width, len(self.blocks), length, config.hidden) if config.kind in PLACES else None

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None, *, causal: bool = False) -> Tensor:
        made = [None] * len(self.blocks) if self.adapter_prefixes is None else self.adapter_prefixes()
        for block, prefix_2PD in zip(self.blocks, made, strict=True):
            assert isinstance(block, AdaptedBlock)
            x_BLD = block.read(x_BLD, mask_BL, prefix_2PD, causal=causal)
        return x_BLD


def mean_gate(gate: nn.Linear, x_BLD: Tensor) -> Tensor:
    """Return the mean over tokens of the sigmoid of a linear layer, [B, 1]."""
    gate_BL1: Tensor = gate(x_BLD).sigmoid()
    return gate_BL1.mean(1)


def with_adapters(tower: Tower, config: BlockAdapterConfig, side: Literal["image", "text"]) -> Tower:
    """Add adapters to the blocks of a tower, in place, and update its `spec`. Refuses towers of other libraries."""
    blocks = getattr(tower, "transformer", None)
    if type(blocks) is not Transformer:
        raise ConfigError(
            f"adapter '{config.kind}' does not fit {type(tower).__name__} (expected a vit_* and a text_* tower, or LoRA by --rank)"
        )
    tower.transformer = AdaptedTransformer(blocks, config)
    shared: dict[str, Any] = {name: tower.spec[name] for name in ("vocab_size", "length", "image_size") if name in tower.spec}
    tower.spec = {"name": f"adapted_{side}", "inner": tower.spec, "adapters": asdict(config), **shared}
    return tower
