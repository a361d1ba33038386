"""Pre-norm block with dropout on both branches, as in timm's vision transformer (2010.11929).  Letters: B batch,
L tokens, D width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from diptych.models.layers.transformer import Block


class DropoutBlock(Block):
    """x + dropped(attention(norm(x))), then x + dropped(mlp(norm(x))); also with dropout inside the MLP.

    dropout  rate; there is no dropout on attention weights
    """

    def __init__(
        self, width: int, heads: int, *, mlp_width: int, act: str = "gelu", eps: float = 1e-6, dropout: float = 0.0
    ) -> None:
        super().__init__(width, heads, mlp_width=mlp_width, act=act, eps=eps)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None, *, causal: bool = False) -> Tensor:
        x_BLD = x_BLD + self._dropped(self.attention(self.norm_1(x_BLD), mask_BL, causal=causal))
        inner_BLM = self._dropped(self.act(self.mlp_in(self.norm_2(x_BLD))))
        return x_BLD + self._dropped(self.mlp_out(inner_BLM))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
