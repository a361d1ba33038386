"""Attention pooling: one query attends to all tokens.  Letters: B batch, P patches, D width, H heads, E width of a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.layers.transformer import activation


class AttentionPool(nn.Module):
    """[B, P, D] to [B, D] by one learned query and a block's MLP: SigLIP's head (2303.15343), the "MAP head" of 2106.04560.

    y = attention(query; tokens), then y + mlp(norm(y)). There is no residual of the query, so the output depends on
    the image only through the attended tokens.
    """

    def __init__(self, width: int, heads: int, *, mlp_width: int, act: str = "gelu", eps: float = 1e-6) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads = heads
        self.query_D = nn.Parameter(torch.empty(width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp_in = nn.Linear(width, mlp_width)
        self.act = activation(act)
        self.mlp_out = nn.Linear(mlp_width, width)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as published: query and attention Xavier-uniform, keys and values separately,
        the MLP too, with biases of 1e-6.
        """
        nn.init.xavier_uniform_(self.query_D[None])
        for weight in (self.q.weight, *self.kv.weight.chunk(2), self.out.weight, self.mlp_in.weight, self.mlp_out.weight):
            nn.init.xavier_uniform_(weight)
        for layer in (self.q, self.kv, self.out):
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.mlp_in.bias, std=1e-6)
        nn.init.normal_(self.mlp_out.bias, std=1e-6)

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        q_1HE = self.q(self.query_D.to(tokens_BPD.dtype)).unflatten(-1, (1, self.heads, -1)).transpose(0, 1)
        k_BHPE, v_BHPE = self.kv(tokens_BPD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended_BH1E = F.scaled_dot_product_attention(q_1HE.expand(tokens_BPD.shape[0], -1, -1, -1), k_BHPE, v_BHPE)
        y_BD: Tensor = self.out(attended_BH1E.flatten(1))
        mlp_out_BD: Tensor = self.mlp_out(self.act(self.mlp_in(self.norm(y_BD))))
        return y_BD + mlp_out_BD


class MeanQueryPool(nn.Module):
    """[B, P, D] to [B, out] with the mean token as the query: the head of CLIP's residual networks (2103.00020).

    The mean is prepended to the tokens, all get a learned position, and the mean attends to all of them, including itself.
    The output projection has a bias and maps into the joint space: a dual encoder adds no further projection.
    """

    def __init__(self, width: int, heads: int, *, positions: int, out: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads = heads
        self.position_PD = nn.Parameter(torch.randn(positions + 1, width) * width**-0.5)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, out)
        for layer in (self.q, self.k, self.v, self.out):  # as published; biases keep PyTorch's default
            nn.init.normal_(layer.weight, std=width**-0.5)

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        x_BPD = torch.cat([tokens_BPD.mean(1, keepdim=True), tokens_BPD], dim=1) + self.position_PD.to(tokens_BPD.dtype)
        q_BH1E, k_BHPE, v_BHPE = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, x_BPD[:, :1]), (self.k, x_BPD), (self.v, x_BPD))
        )
        attended_BH1E = F.scaled_dot_product_attention(q_BH1E, k_BHPE, v_BHPE)
        pooled_BD: Tensor = self.out(attended_BH1E.flatten(1))
        return pooled_BD
