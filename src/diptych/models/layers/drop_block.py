"""DropBlock (Ghiasi et al., 2018, arXiv 1810.12890): drops squares of a feature map, in all channels at once.  Letters:
B batch, D channels, H W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError


class DropBlock(nn.Module):
    """Sets squares of `side` positions to 0 in training and rescales the rest, over the whole batch; the identity in evaluation.

    share  approximate share of dropped positions: a square starts at share / side^2 of them, as in the detectors that use it;
           squares that overlap or cross the border make the actual share smaller
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
