"""Pre-norm transformer of both CLIP towers (2103.00020).  Letters: B batch, L tokens, D width."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.layers.attention import Attention
from diptych.models.layers.initialisation import Start, init_block_

Activation = Literal["gelu", "quick_gelu", "gelu_tanh", "relu"]


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x): used by the first released CLIP weights. Not interchangeable with GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: str) -> nn.Module:
    """Return the activation of a name.

    Names are "gelu" (exact), "quick_gelu" (OpenAI's CLIP), "gelu_tanh" (the default approximation of JAX, so SigLIP's),
    and "relu" (the text tower of TIPS).
    """
    if name == "gelu":
        return nn.GELU()
    if name == "quick_gelu":
        return QuickGELU()
    if name == "gelu_tanh":
        return nn.GELU(approximate="tanh")
    if name == "relu":
        return nn.ReLU()
    raise ConfigError(f"unknown activation {name!r} (expected {' | '.join(get_args(Activation))})")


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    dropout  in training: after the attention, inside the MLP and after it (timm's `drop`)
    attention_dropout  in training: of attention weights
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_width: int,
        act: str = "gelu",
        eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_1 = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, dropout=attention_dropout)
        self.norm_2 = nn.LayerNorm(width, eps=eps)
        self.mlp_in = nn.Linear(width, mlp_width)
        self.act_name, self.act = act, activation(act)
        self.mlp_out = nn.Linear(mlp_width, width)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None, *, causal: bool = False) -> Tensor:
        x_BLD = x_BLD + self._dropped(self.attention(self.norm_1(x_BLD), mask_BL, causal=causal))
        mlp_out_BLD: Tensor = self.mlp_out(self._dropped(self.act(self.mlp_in(self.norm_2(x_BLD)))))
        return x_BLD + self._dropped(mlp_out_BLD)

    def _dropped(self, x_BLD: Tensor) -> Tensor:
        return F.dropout(x_BLD, self.dropout, self.training) if self.dropout else x_BLD


class Transformer(nn.Module):
    """Stack of blocks.

    start  their initialisation (`layers/initialisation.py`): "clip", the published initialisation of CLIP's text tower,
           "spread", "torch", "xavier" or "narrow"
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        act: str = "gelu",
        eps: float = 1e-5,
        start: Start = "clip",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if start not in get_args(Start):
            raise ConfigError(f"unknown start {start!r} (expected {' | '.join(get_args(Start))})")
        self.width, self.start = width, start
        dropped = {"dropout": dropout, "attention_dropout": attention_dropout}
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_width=int(width * mlp_ratio), act=act, eps=eps, **dropped) for _ in range(layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for block in self.blocks:
            assert isinstance(block, Block)
            maps = (block.attention.qkv, block.attention.out, block.mlp_in, block.mlp_out)
            init_block_(self.start, *maps, layers=len(self.blocks))

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None, *, causal: bool = False) -> Tensor:
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_BL, causal=causal)
        return x_BLD


def l2_normalise(x_ND: Tensor) -> Tensor:
    """Return rows of norm 1, computed in at least float32."""
    return F.normalize(x_ND if x_ND.dtype == torch.float64 else x_ND.float(), dim=-1)
