"""DropBlock (Ghiasi et al., 2018, arXiv 1810.12890): squares of a map go, all channels at once.  Letters: B batch, D channels, H W."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError


class DropBlock(nn.Module):
    """In training, squares of `side` places become 0 and the rest grows by as much, over the whole batch; otherwise nothing happens.

    share  of places that go, about: a square begins at share / side^2 of them, as the detectors that use it count, so that squares that
           overlap or hang over the edge make it less
    """

    def __init__(self, share: float, side: int) -> None:
        super().__init__()
        if not 0 <= share < 1 or side < 1:
            raise ConfigError(
                f"drop_block is {share} in squares of {side} (expected a share from 0 up to less than 1, and a side of 1 or more)"
            )
        self.share, self.side = share, side

    def forward(self, x_BDHW: Tensor) -> Tensor:
        if not self.training or not self.share:
            return x_BDHW
        begins_BHW = torch.rand(len(x_BDHW), *x_BDHW.shape[2:], device=x_BDHW.device) < self.share / self.side**2
        gone_B1HW = F.max_pool2d(begins_BHW[:, None].to(x_BDHW.dtype), self.side, stride=1, padding=self.side // 2)
        if self.side % 2 == 0:
            gone_B1HW = gone_B1HW[..., :-1, :-1]
        kept_B1HW = 1 - gone_B1HW
        return x_BDHW * kept_B1HW * (kept_B1HW.numel() / kept_B1HW.sum().clamp(min=1))
