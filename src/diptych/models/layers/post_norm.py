"""BERT's transformer layer (1810.04805): attention, sum, norm; then two layers, sum, norm.  Letters: B batch, L tokens, P tokens of another
source, D width, M width of the inner layer, H heads, E width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.layers.attention import Attention


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)); initialised as BERT: weights normal with deviation 0.02, biases zero.

    dropout  of the attention weights and of the output of each branch; 0.1 in BERT
    limit    clamps the attention scores, the inner layer before and after its activation,
             the output of the MLP and the result (GLIP: 50,000, for half precision); None: no clamping
    """

    def __init__(
        self, width: int, heads: int, *, mlp_width: int, dropout: float = 0.0, eps: float = 1e-12, limit: float | None = None
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm_1 = nn.LayerNorm(width, eps=eps)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.norm_2 = nn.LayerNorm(width, eps=eps)
        self.dropout, self.limit = dropout, limit
        for layer in (self.attention.qkv, self.attention.out, self.mlp_in, self.mlp_out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """`mask_BL` is True at real tokens; every row needs at least one."""
        x_BLD = self.norm_1(x_BLD + self._dropped(self._attended(x_BLD, mask_BL)))
        inner_BLM = self._within(F.gelu(self._within(self.mlp_in(x_BLD))))
        return self._within(self.norm_2(x_BLD + self._within(self._dropped(self.mlp_out(inner_BLM)))))

    def _attended(self, x_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        if self.limit is None and not (self.training and self.dropout):
            attended_BLD: Tensor = self.attention(x_BLD, mask_BL)
            return attended_BLD
        heads = self.attention.heads
        q_BHLE, k_BHLE, v_BHLE = self.attention.qkv(x_BLD).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        may_B11L = mask_BL[:, None, None, :]
        if self.limit is None:
            attended_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHLE, v_BHLE, attn_mask=may_B11L, dropout_p=self.dropout)
        else:
            score_BHLL = self._within(q_BHLE @ k_BHLE.mT * q_BHLE.shape[-1] ** -0.5).masked_fill(~may_B11L, float("-inf"))
            attended_BHLE = self._dropped(score_BHLL.softmax(-1)).to(v_BHLE.dtype) @ v_BHLE
        out_BLD: Tensor = self.attention.out(attended_BHLE.transpose(1, 2).flatten(2))
        return out_BLD

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def _within(self, x: Tensor) -> Tensor:
        return x if self.limit is None else x.clamp(-self.limit, self.limit)


class PostNormAttention(nn.Module):
    """norm(x + attention(x, source)), as in BERT. The source may have another width (image tokens)."""

    def __init__(self, width: int, heads: int, source_width: int, *, dropout: float, eps: float) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key, self.value = nn.Linear(source_width, width), nn.Linear(source_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x_BLD: Tensor, source_BPD: Tensor, may: Tensor | None) -> Tensor:
        """`may` is True where a token may be attended to, broadcastable to [B, H, L, P]."""
        q_BHLE, k_BHPE, v_BHPE = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.query, x_BLD), (self.key, source_BPD), (self.value, source_BPD))
        )
        dropout = self.dropout if self.training else 0.0
        attended_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BHPE, v_BHPE, attn_mask=may, dropout_p=dropout)
        added_BLD = F.dropout(self.out(attended_BHLE.transpose(1, 2).flatten(2)), self.dropout, self.training)
        out_BLD: Tensor = self.norm(x_BLD + added_BLD)
        return out_BLD


@torch.no_grad()
def adopt_bert_layer_(block: PostNormBlock, layer: nn.Module) -> None:
    """Copy the weights of a `BertLayer` of transformers into the block."""
    theirs = dict(layer.named_parameters())
    own = "attention.self"
    for kind in ("weight", "bias"):
        parts: list[Tensor] = [theirs[f"{own}.{name}.{kind}"] for name in ("query", "key", "value")]
        block.attention.qkv.get_parameter(kind).copy_(torch.cat(parts))
        for mine, name in (
            (block.attention.out, "attention.output.dense"),
            (block.norm_1, "attention.output.LayerNorm"),
            (block.mlp_in, "intermediate.dense"),
            (block.mlp_out, "output.dense"),
            (block.norm_2, "output.LayerNorm"),
        ):
            mine.get_parameter(kind).copy_(theirs[f"{name}.{kind}"])
