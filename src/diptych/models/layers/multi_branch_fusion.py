"""Multi-branch fusion of two vectors by products (spatially conditioned graphs, 2012.06060).  Letters:
D width, X leading shape.
"""

from __future__ import annotations

from torch import Tensor, nn

from diptych.core.errors import ConfigError


class MultiBranchFusion(nn.Module):
    """ReLU( b + sum over branches c of W3_c ReLU( W1_c x * W2_c y ) ), every branch width / branches wide.

    The branches are concatenated in three square layers. (The released module stores them separately, with a bias b_c each;
    only their sum matters.) Each branch is initialised as a Xavier layer of its own size.
    """

    def __init__(self, width: int, *, branches: int = 16) -> None:
        super().__init__()
        if width % branches:
            raise ConfigError(f"{branches} branches do not divide a width of {width}")
        self.branches = branches
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        width = self.out.in_features
        bound = (6 / (width + width / self.branches)) ** 0.5
        for layer in (self.first, self.second, self.out):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)

    def forward(self, x_XD: Tensor, y_XD: Tensor) -> Tensor:
        fused_XD: Tensor = self.out((self.first(x_XD) * self.second(y_XD)).relu()).relu()
        return fused_XD
