"""A dense grounding detector: at every position of every map one anchor, a box, its centerness, and a logit for every token
(ATSS, 1912.02424, with GLIP's token head, 2112.03857), after a pyramid and a dynamic head, in which maps and text may meet.

Letters: B images, A anchors, L tokens, D width, T width of tokens, H W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.graphs.grounded import DenseRegions
from diptych.models.detection.dense.dynamic_head import Coarser, DynamicHead
from diptych.models.detection.dense.fused_dynamic_head import FusedDynamicHead
from diptych.models.detection.feature_pyramid import pad_single_column
from diptych.models.detection.token_head import TokenHead
from diptych.models.layers.drop_block import DropBlock

EXTRA = 2
"""Maps that the pyramid adds beyond those of the backbone, each of half the side."""


@dataclass(frozen=True, kw_only=True)
class DenseHeadConfig:
    """Configuration of a `DenseHead`, without its input sizes. Defaults: FIBER's second stage; with `meeting_width` 2048 GLIP's head.

    head_width, rounds   of the dynamic head
    head_groups     of its GroupNorms
    coarser         how a map reads the coarser one (`dynamic_head.DynamicBlock`)
    meeting_width, meeting_heads   of the attention between places and tokens before each round (`FusedDynamicHead`); a width of 0: they
                    meet in the token head alone
    word_heads, word_mlp   of the layer among tokens after each meeting
    meeting_dropout, meeting_limit   in both; `meeting_limit` 0: values are not clamped
    drop_block, drop_side   fraction of positions, in squares of that side, that are dropped in training from all backbone maps
                            but the coarsest, before the pyramid's last convolution (`DropBlock`)
    anchor          side of the square anchor of a place, in strides of its map
    token_scale     of the tokens before their projection (`TokenHead`)
    prior           probability that all logits start near
    least           probability threshold for a phrase at a position
    candidates      of each map, at most, before boxes that overlap are dropped
    overlap         IoU threshold of NMS among the boxes of a phrase
    most            boxes of a text, all phrases together
    """

    head_width: int = 256
    rounds: int = 6
    head_groups: int = 16
    coarser: Coarser = "released"
    meeting_width: int = 0
    meeting_heads: int = 8
    word_heads: int = 12
    word_mlp: int = 3072
    meeting_dropout: float = 0.1
    meeting_limit: float = 50_000.0
    drop_block: float = 0.3
    drop_side: int = 3
    anchor: float = 8.0
    token_scale: float = 0.5
    prior: float = 0.01
    least: float = 0.05
    candidates: int = 1000
    overlap: float = 0.6
    most: int = 100

    def __post_init__(self) -> None:
        if self.head_width % self.head_groups or self.rounds < 1:
            raise ConfigError(
                f"head_width {self.head_width} with {self.head_groups} groups and {self.rounds} rounds (expected groups that divide the "
                "width, and a round or more)"
            )


class DropBlockPyramid(FeaturePyramidNetwork):  # type: ignore[misc]
    """torchvision's pyramid, whose finer maps lose squares in training on their way to the last convolution; what goes down stays
    whole."""

    def __init__(self, channels: Sequence[int], width: int, drop: DropBlock) -> None:
        super().__init__(list(channels), width, PaddedLastLevelP6P7(width, width))
        self.drop = drop

    def get_result_from_layer_blocks(self, x: Tensor, idx: int) -> Tensor:
        output: Tensor = super().get_result_from_layer_blocks(x if idx < 0 else self.drop(x), idx)
        return output


class PaddedLastLevelP6P7(LastLevelP6P7):  # type: ignore[misc]
    """torchvision's two maps after the last one, whose gradients are right for pictures of a few places, too."""

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        sixth_BDHW = self.p6(pad_single_column(p[-1] if self.use_P5 else c[-1]))
        return [*p, sixth_BDHW, self.p7(pad_single_column(F.relu(sixth_BDHW)))], [*names, "p6", "p7"]


class DenseHead(nn.Module):
    """Maps and tokens to `DenseRegions`. Both are fused before, in the dynamic head, or only in the token head."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], token_width: int, shape: DenseHeadConfig) -> None:
        super().__init__()
        width = shape.head_width
        self.shape, self.strides = shape, (*strides, *(strides[-1] * 2 ** (n + 1) for n in range(EXTRA)))
        self.pyramid = DropBlockPyramid(channels, width, DropBlock(shape.drop_block, shape.drop_side))
        self.tower = (
            FusedDynamicHead(
                width,
                token_width,
                shape.rounds,
                groups=shape.head_groups,
                coarser=shape.coarser,
                meeting_width=shape.meeting_width,
                meeting_heads=shape.meeting_heads,
                word_heads=shape.word_heads,
                word_mlp=shape.word_mlp,
                dropout=shape.meeting_dropout,
                limit=shape.meeting_limit or None,
            )
            if shape.meeting_width
            else DynamicHead(width, shape.rounds, groups=shape.head_groups, coarser=shape.coarser)
        )
        self.box, self.centre = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 1, 1)
        self.box_scale = nn.Parameter(torch.ones(len(self.strides)))
        self.tokens = TokenHead(width, token_width, prior=shape.prior, scale=shape.token_scale)
        for layer in (self.box, self.centre):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor], token_BLT: Tensor, mask_BL: Tensor, size_B2: Tensor) -> DenseRegions:
        """size_B2   height and width of each image in pixels, without its padding"""
        met, token_BLT = self.met(maps, token_BLT, mask_BL)
        flat = [map_BDHW.flatten(2).mT for map_BDHW in met]
        change_BA4 = torch.cat(
            [self.box(map_BDHW).flatten(2).mT * scale for map_BDHW, scale in zip(met, self.box_scale, strict=True)], 1
        )
        centre_BA = torch.cat([self.centre(map_BDHW).flatten(1) for map_BDHW in met], 1)
        logit_BAL = self.tokens(torch.cat(flat, 1), token_BLT)
        anchors = [
            square_anchors(map_BDHW.shape[2], map_BDHW.shape[3], stride, self.shape.anchor, like=change_BA4)
            for map_BDHW, stride in zip(met, self.strides, strict=True)
        ]
        return DenseRegions(
            change_BA4, centre_BA, logit_BAL, mask_BL, size_B2, torch.cat(anchors), tuple(len(anchor_A4) for anchor_A4 in anchors)
        )

    def met(self, maps: Sequence[Tensor], token_BLT: Tensor, mask_BL: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps [B, D, H, W] of all strides and tokens, as the token head compares them."""
        named = OrderedDict((str(level), map_BCHW) for level, map_BCHW in enumerate(maps))
        whole: list[Tensor] = list(self.pyramid(named).values())
        if not self.shape.meeting_width:
            return self.tower(whole), token_BLT
        fused: tuple[list[Tensor], Tensor] = self.tower(whole, token_BLT, mask_BL)
        return fused


def square_anchors(height: int, width: int, stride: int, side: float, *, like: Tensor) -> Tensor:
    """[height * width, 4] xyxy pixels: a square of `side` strides around the middle of each place, row by row."""
    y_H, x_W = ((torch.arange(count, device=like.device, dtype=torch.float32) + 0.5) * stride for count in (height, width))
    middle_A2 = torch.stack((x_W.expand(height, -1), y_H[:, None].expand(-1, width)), -1).flatten(0, 1)
    half = side * stride / 2
    return torch.cat((middle_A2 - half, middle_A2 + half), 1)


def sizes_of(image_BCHW: Tensor, pixel_BHW: Tensor | None) -> Tensor:
    """[B, 2]: height and width of each image without its padding."""
    if pixel_BHW is None:
        return torch.tensor(image_BCHW.shape[2:], device=image_BCHW.device).expand(len(image_BCHW), -1)
    if pixel_BHW.shape != image_BCHW[:, 0].shape:
        raise ShapeError(f"images are {list(image_BCHW.shape)} but pixel_BHW is {list(pixel_BHW.shape)}")
    return torch.stack((pixel_BHW.any(2).sum(1), pixel_BHW.any(1).sum(1)), 1)
