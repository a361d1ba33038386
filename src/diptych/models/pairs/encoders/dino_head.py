"""DINO's prototype head (2104.14294).  Letters: N items, K prototypes, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DINOHead(nn.Module):
    """Three linear layers with GELU, then cosines [..., K] with K prototypes of norm 1. Published sizes: 2048, 256, 32,768.

    learned_norms  cosines are multiplied by a learned norm of each prototype, initially 1, as in DINOv2's code
    """

    def __init__(
        self, width: int, prototypes: int, *, hidden: int = 2048, bottleneck: int = 256, learned_norms: bool = False
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototype_KD = nn.Parameter(torch.randn(prototypes, bottleneck) * bottleneck**-0.5)
        self.norm_K = nn.Parameter(torch.ones(prototypes)) if learned_norms else None

    def forward(self, x_ND: Tensor) -> Tensor:
        cosine_NK = F.linear(F.normalize(self.mlp(x_ND), dim=-1), F.normalize(self.prototype_KD, dim=-1))
        return cosine_NK if self.norm_K is None else cosine_NK * self.norm_K
