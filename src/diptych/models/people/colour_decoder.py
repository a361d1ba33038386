"""Text-guided colourisation of grey pictures (PLIP, 2305.08386).  Letters: B batch, C channel, H W, D width of the text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ShapeError


class TextExcitation(nn.Module):
    """Squeeze and excitation that hears a text: each channel is multiplied by a gate in (0, 1) made from all channels' means and
    the text.

    a = sigmoid(W2 relu(W1 [mean of x; t])),   W1: C + D -> C,   W2: C -> C

    The paper's main text has a maximum and a softmax here, its appendix the mean and the sigmoid, as it stands. `text` False is plain
    squeeze and excitation, a control.
    """

    def __init__(self, channels: int, text_width: int, *, text: bool = True) -> None:
        super().__init__()
        self.text = text
        self.inside = nn.Linear(channels + (text_width if text else 0), channels)
        self.outside = nn.Linear(channels, channels)

    def forward(self, x_BCHW: Tensor, text_BD: Tensor) -> Tensor:
        squeezed = x_BCHW.mean((2, 3))
        if self.text:
            squeezed = torch.cat([squeezed, text_BD.to(squeezed.dtype)], 1)
        gate_BC = self.outside(self.inside(squeezed).relu()).sigmoid()
        gated_BCHW: Tensor = x_BCHW * gate_BC[:, :, None, None]
        return gated_BCHW


class ColourDecoder(nn.Module):
    """Four maps of a grey picture, at strides 4, 8, 16 and 32, and a text vector to a coloured picture of four times the first
    map's sides.

    The maps are brought to stride 4 and put together, `channels` in all (published: 1024). Twice: text-guided excitation, then a
    transposed convolution that doubles the sides, to a quarter of the channels and then to red, green and blue. How 3,840 channels of a
    ResNet-50 become 1024 is not published: here each map goes through a 1x1 convolution to a quarter of them.
    """

    def __init__(self, map_channels: Sequence[int], text_width: int, *, channels: int = 1024, text: bool = True) -> None:
        super().__init__()
        if len(map_channels) != 4 or channels % 4:
            raise ShapeError(
                f"the decoder reads four maps and has channels that four divides; got {len(map_channels)} and {channels}"
            )
        part = channels // 4
        self.parts = nn.ModuleList(nn.Conv2d(count, part, 1) for count in map_channels)
        self.hear_1, self.hear_2 = TextExcitation(channels, text_width, text=text), TextExcitation(part, text_width, text=text)
        self.grow_1 = nn.ConvTranspose2d(channels, part, 3, stride=2, padding=1, output_padding=1)
        self.grow_2 = nn.ConvTranspose2d(part, 3, 3, stride=2, padding=1, output_padding=1)

    def forward(self, maps: Sequence[Tensor], text_BD: Tensor) -> Tensor:
        x_BCHW = self.joined(maps)
        x_BCHW = self.grow_1(self.hear_1(x_BCHW, text_BD))
        painted_BCHW: Tensor = self.grow_2(self.hear_2(x_BCHW, text_BD))
        return painted_BCHW

    def joined(self, maps: Sequence[Tensor]) -> Tensor:
        """The four maps at stride 4, one after the other, [B, channels, H, W]."""
        size = maps[0].shape[-2:]
        parts = [part(x_BCHW) for part, x_BCHW in zip(self.parts, maps, strict=True)]
        grown = [F.interpolate(x_BCHW, size=size, mode="bilinear", align_corners=False) for x_BCHW in parts[1:]]
        return torch.cat([parts[0], *grown], 1)
