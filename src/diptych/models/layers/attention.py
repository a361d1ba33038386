"""Multi-head self-attention.  Letters: B batch, L tokens, D width, H heads, E width of a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError

SHORT = 200  # tokens; up to here two matrix products beat the fused kernel's backward on CPU under bfloat16


class Attention(nn.Module):
    """Multi-head self-attention.

    There are two implementations, equal up to rounding. The fused kernel (`scaled_dot_product_attention`) saves memory and is the
    default; two matrix products and a softmax are used where `uses_explicit_attention` says that they are faster.
    Masks are boolean, True where a token may be attended to. A row without any such token gets NaN or zeros, so do not pass one.

    dropout  dropout of attention weights in training
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """`mask_BL` is True at real tokens; with `causal` a token attends only to itself and earlier ones."""
        q_BHLE, k_BHLE, v_BHLE = self.qkv(x_BLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        length = x_BLD.shape[1]
        if self.dropout and self.training:
            may = attention_mask(mask_BL, length, causal=causal, device=x_BLD.device)
            attended_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, attn_mask=may, dropout_p=self.dropout)
        elif uses_explicit_attention(x_BLD, length):
            attended_BHLE = explicit_attention(
                q_BHLE, k_BHLE, v_BHLE, attention_mask(mask_BL, length, causal=causal, device=x_BLD.device)
            )
        elif mask_BL is None:
            attended_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, is_causal=causal)
        else:
            may = attention_mask(mask_BL, length, causal=causal, device=x_BLD.device)
            attended_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, attn_mask=may)
        out_BLD: Tensor = self.out(attended_BHLE.transpose(1, 2).flatten(2))
        return out_BLD


def uses_explicit_attention(x: Tensor, length: int) -> bool:
    """Return True on CPU, under autocast, up to `SHORT` tokens, where the backward of the fused kernel is slow."""
    return x.device.type == "cpu" and length <= SHORT and torch.is_autocast_enabled("cpu")


def attention_mask(mask_BL: Tensor | None, length: int, *, causal: bool, device: torch.device) -> Tensor | None:
    """Return a boolean attention mask, broadcastable to [B, H, L, L]; None if all tokens may attend to all."""
    may = None if mask_BL is None else mask_BL[:, None, None, :]
    if causal:
        earlier_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        may = earlier_LL if may is None else may & earlier_LL
    return may


def explicit_attention(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, may: Tensor | None = None) -> Tensor:
    """Return softmax(q k' / sqrt(E)) v over entries where `may` is True."""
    logits_BHLL = (q_BHLE * q_BHLE.shape[-1] ** -0.5) @ k_BHLE.transpose(-2, -1)
    if may is not None:
        logits_BHLL = logits_BHLL.masked_fill(~may, float("-inf"))
    attended_BHLE: Tensor = logits_BHLL.softmax(-1).to(v_BHLE.dtype) @ v_BHLE
    return attended_BHLE
