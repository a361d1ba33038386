"""Features of boxes: pooled from the maps of a pyramid, then two linear layers (Faster R-CNN with a feature pyramid).

Boxes are xyxy in pixels of the image as the model sees it. Letters: B images, N boxes of all images, C channels, D width, S side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from diptych.core.errors import ConfigError

CANONICAL, LEVEL = 224.0, 4
"""A box of 224 pixels is read from the map of stride 16 (FPN, Lin et al., 2017)."""


class RoIPooler(nn.Module):
    """Each box from the one map that suits its size, or from all maps, which a 3 x 3 convolution then brings back to one width.

    channels     of every map
    strides      of the maps in pixels, finest first, each twice the one before
    side         places of the pooled box
    samples      points a place and direction; 0: as many as pixels of the map lie in a place
    every_level  all maps, as features of pairs are pooled from a detector that is not trained
    inclusive    a box from 3 to 5 is three pixels wide where its level is chosen (the release)
    aligned      the first place of a map stands for the middle of its pixels, not for their corner (Detectron2, mmdetection)
    """

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        *,
        side: int = 7,
        samples: int = 2,
        every_level: bool = False,
        inclusive: bool = True,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        if any(b != 2 * a for a, b in itertools.pairwise(strides)):
            raise ConfigError(f"strides are {list(strides)} (expected each twice the one before)")
        self.strides, self.side, self.samples, self.inclusive, self.aligned = tuple(strides), side, samples, inclusive, aligned
        self.reduce = nn.Conv2d(channels * len(strides), channels, 3, padding=1) if every_level else None
        if self.reduce is not None:
            nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(self.reduce.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor] | Mapping[str, Tensor], boxes: Sequence[Tensor], shapes: object = None) -> Tensor:
        """[N, C, S, S]. Maps beyond the strides (a coarser one for proposals) are not read. `shapes` is what torchvision passes on."""
        read = list(maps.values() if isinstance(maps, Mapping) else maps)[: len(self.strides)]
        row_N5 = torch.cat([F.pad(box_N4, (1, 0), value=float(image)) for image, box_N4 in enumerate(boxes)])
        pooled: list[Tensor] = [
            self._read(map_BCHW, row_N5, stride)
            for map_BCHW, stride in zip(read, self.strides, strict=True)
            if self.reduce is not None or len(self.strides) == 1
        ]
        if self.reduce is not None:
            joined_NCSS: Tensor = self.reduce(torch.cat(pooled, 1))
            return F.relu(joined_NCSS)
        if pooled:
            return pooled[0]
        level_N = self.levels(row_N5[:, 1:])
        out = read[0].new_zeros(len(row_N5), read[0].shape[1], self.side, self.side)
        for level, (map_BCHW, stride) in enumerate(zip(read, self.strides, strict=True)):
            chosen = (level_N == level).nonzero()[:, 0]
            out = out.index_copy(0, chosen, self._read(map_BCHW, row_N5[chosen], stride))
        return out

    def _read(self, map_BCHW: Tensor, row_N5: Tensor, stride: int) -> Tensor:
        """Places of boxes in at least float32: half precision is whole pixels off in the middle of an image."""
        wide = torch.promote_types(map_BCHW.dtype, torch.float32)
        options = (self.side, 1 / stride, self.samples, self.aligned)
        pooled_NCSS: Tensor = roi_align(map_BCHW.to(wide), row_N5.to(wide), *options)
        return pooled_NCSS.to(map_BCHW.dtype)

    def levels(self, box_N4: Tensor) -> Tensor:
        """int64 [N]: which map each box is read from."""
        side_N2 = box_N4[:, 2:] - box_N4[:, :2] + float(self.inclusive)
        finest = round(math.log2(self.strides[0]))
        level_N = torch.floor(LEVEL + torch.log2(side_N2.prod(1).clamp(min=0).sqrt() / CANONICAL + 1e-6))
        return level_N.clamp(finest, finest + len(self.strides) - 1).long() - finest


class RoIBoxHead(nn.Module):
    """Two linear layers with ReLU after a pooled box, [N, C, S, S] to [N, D]."""

    def __init__(self, channels: int, width: int, *, side: int = 7) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(channels * side**2, width), nn.Linear(width, width)
        for layer in (self.fc6, self.fc7):
            c2_xavier_fill_(layer)

    def forward(self, pooled_NCSS: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(pooled_NCSS.flatten(1)))))


def c2_xavier_fill_(layer: nn.Linear) -> nn.Linear:
    """Uniform by the number of inputs, no bias: Caffe2's "Xavier fill", how detectors of this line start."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer


def enclosing_boxes(one_N4: Tensor, other_N4: Tensor) -> Tensor:
    """The smallest box around two, [N, 4]."""
    return torch.cat([torch.minimum(one_N4[:, :2], other_N4[:, :2]), torch.maximum(one_N4[:, 2:], other_N4[:, 2:])], 1)
