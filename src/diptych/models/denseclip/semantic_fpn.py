"""Semantic FPN (1901.02446): a feature pyramid, and a head that adds its levels up and names every place.

Letters: B batch, C channel, H W, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FeaturePyramidNeck(nn.Module):
    """Maps of several strides to one width: 1x1 convolutions, coarser levels added to finer ones (nearest), a 3x3 convolution each."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for conv in (*self.sides, *self.smooth):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [side(map_BCHW) for side, map_BCHW in zip(self.sides, maps, strict=True)]
        for fine in range(len(levels) - 2, -1, -1):
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], size=levels[fine].shape[2:], mode="nearest")
        return [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]


class SemanticHead(nn.Module):
    """Levels of strides 4, 8, 16, 32 to logits at stride 4: each is convolved and doubled until it has that size, all are added."""

    def __init__(self, width: int, classes: int, *, levels: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.scales = nn.ModuleList()
        for level in range(levels):
            steps: list[nn.Module] = []
            for _ in range(max(1, level)):
                steps += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                if level:
                    steps.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scales.append(nn.Sequential(*steps))
        self.dropout, self.classify = nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classify.weight, std=0.01)
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        total_BCHW = self.scales[0](levels[0])
        for scale, level in zip(self.scales[1:], levels[1:], strict=True):
            total_BCHW = total_BCHW + F.interpolate(scale(level), size=total_BCHW.shape[2:], mode="bilinear", align_corners=False)
        logit_BKHW: Tensor = self.classify(self.dropout(total_BCHW))
        return logit_BKHW
