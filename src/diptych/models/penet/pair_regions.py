"""Features of a pair of boxes: the region around both, and where in it each of them lies (Neural Motifs; PE-Net's release).

Letters: P pairs, C channels, S side of a pooled box, V width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diptych.models.detection.roi_pooler import RoIBoxHead, RoIPooler, enclosing_boxes


class PairRegions(nn.Module):
    """[P, V]: the union of two boxes pooled from all maps, plus a small network over both boxes as rectangles, then two linear layers."""

    def __init__(self, channels: int, strides: Sequence[int], width: int, *, side: int = 7) -> None:
        super().__init__()
        self.pool = RoIPooler(channels, strides, side=side, every_level=True)
        self.side = 4 * side - 1
        self.rectangles = nn.Sequential(
            nn.Conv2d(2, channels // 2, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.BatchNorm2d(channels // 2, momentum=0.01),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(channels // 2, channels, 3, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(channels, momentum=0.01),
        )
        self.layers = RoIBoxHead(channels, width, side=side)

    def forward(
        self,
        maps: Sequence[Tensor] | Mapping[str, Tensor],
        subjects: Sequence[Tensor],
        objects: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Boxes of the pairs of each image, xyxy in pixels, and the (height, width) of the images."""
        union = [enclosing_boxes(one_P4, other_P4) for one_P4, other_P4 in zip(subjects, objects, strict=True)]
        pooled_PCSS = self.pool(maps, union)
        drawn = [
            torch.stack([rectangles(box_P4, size, self.side) for box_P4 in ends], 1)
            for *ends, size in zip(subjects, objects, sizes, strict=True)
        ]
        out_PV: Tensor = self.layers(pooled_PCSS + self.rectangles(torch.cat(drawn).to(pooled_PCSS.dtype)))
        return out_PV


def rectangles(box_P4: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """[P, side, side]: 1 where a box lies in an image of (height, width) that is squeezed into a square, edges rounded outwards."""
    high, wide = size
    scaled_P4 = box_P4 * box_P4.new_tensor([side / wide, side / high]).repeat(2)
    low_P2, last_P2 = scaled_P4[:, :2].floor(), scaled_P4[:, 2:].ceil()
    place_S = torch.arange(side, device=box_P4.device)
    inside_P2S = (place_S >= low_P2[..., None]) & (place_S <= last_P2[..., None])
    return (inside_P2S[:, 1, :, None] & inside_P2S[:, 0, None, :]).float()
