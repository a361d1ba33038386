"""Swin's windows on maps that they do not divide: padded before the shift, as detectors with a Swin backbone are trained.

Letters: B batch, H W, C channel.
"""

from __future__ import annotations

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F


class PaddedSwinBlock(SwinTransformerBlock):  # type: ignore[misc]  # timm is untyped
    """timm's block, whose normalised map is padded with zeros (below, at the right) to whole windows *before* it is shifted.

    timm shifts first and pads then, so the last rows and columns share a window with other places than in the published detectors
    (QAHOI, RLIPv2): there features differ by several percent. Where windows divide the map, as at 224 pixels, the two are equal.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        below, right = (-side % window for side, window in zip((height, width), self.window_size, strict=True))
        whole_BHWC: Tensor = super()._attn(F.pad(x, (0, 0, 0, right, 0, below)))
        return whole_BHWC[:, :height, :width]


def pad_before_shift(net: nn.Module) -> None:
    """Every Swin block inside `net` becomes a `PaddedSwinBlock`: same tensors, same names."""
    for module in net.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = PaddedSwinBlock


def pad_to_patches(image_BCHW: Tensor, patch: int) -> Tensor:
    """Zeros below and at the right up to whole patches, as published: timm would drop the rest of the image."""
    height, width = image_BCHW.shape[2:]
    return F.pad(image_BCHW, (0, -width % patch, 0, -height % patch))
