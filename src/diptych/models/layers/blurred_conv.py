"""Blur before strided convolutions, which makes them less sensitive to shifts by one pixel (Zhang, 2019, 1904.11486).

Letters: B batch, C channel, H W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BlurredConv(nn.Module):
    """Depthwise 3 x 3 binomial filter followed by `conv`. The blur precedes the convolution, as in FFCV's ImageNet training."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        line_3 = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("blur_C1HW", torch.outer(line_3, line_3).repeat(conv.in_channels, 1, 1, 1), persistent=False)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        blurred_BCHW = F.conv2d(map_BCHW, self.get_buffer("blur_C1HW"), padding=1, groups=self.conv.in_channels)
        out_BCHW: Tensor = self.conv(blurred_BCHW)
        return out_BCHW


def blur_strided_(module: nn.Module, *, least: int = 16) -> None:
    """Add a blur, in place, to every convolution with a stride above 1 and at least `least` input channels."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and max(child.stride) > 1 and child.in_channels >= least:
            setattr(module, name, BlurredConv(child))
        else:
            blur_strided_(child, least=least)
