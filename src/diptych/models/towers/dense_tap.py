"""Dense outputs of an image tower: maps of four strides, and dense features in the joint space (DenseCLIP, 2112.01518).

The weights and the forward pass of towers are unchanged; for other image sizes, positions are resized bilinearly.

Letters: B batch, C channel, H W, P positions, D width of the joint space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.transformer import Block
from diptych.models.towers.attention_pool import MeanQueryPool
from diptych.models.towers.clip_resnet import STRIDE, CLIPResNet
from diptych.models.towers.outputs import Tower
from diptych.models.towers.vit import VisionTransformer

STRIDES = (4, 8, 16, 32)

Positions = Literal["resized", "cut"]
"""Rule for images with another number of positions than the position table: resize the table bilinearly,
or take its upper left corner (then no image may have more positions per side than the table).
"""


@dataclass(frozen=True, slots=True)
class DenseMaps:
    """maps  four maps [B, C, H, W], finest first, of strides 4, 8, 16 and 32
    whole_BD, dense_BDHW  vectors of the picture and of each position, projected into the joint space, not normalised
    """

    maps: list[Tensor]
    whole_BD: Tensor
    dense_BDHW: Tensor


class DenseTap(nn.Module):
    """Interface of dense outputs: `channels` of the four maps, `width` of the joint space,
    and the `level` of `dense_BDHW` among the maps.
    """

    channels: tuple[int, ...]
    width: int
    level: int


def dense_tap(tower: Tower, projection: nn.Module, width: int, **options: Any) -> DenseTap:
    """Return the tap of a CLIP tower with its projection. Raises ConfigError for other towers:
    `PyramidTap` accepts any backbone.
    """
    if isinstance(tower, CLIPResNet):
        return ResNetTap(tower, **options)
    if isinstance(tower, VisionTransformer) and tower.class_token_D is not None:
        return ViTTap(tower, projection, width, **options)
    raise ConfigError(f"{type(tower).__name__} has no dense tap (expected CLIP's residual network or vision transformer)")


def dense_pool(pool: MeanQueryPool, map_BCHW: Tensor, positions: Positions = "resized") -> tuple[Tensor, Tensor]:
    """Attention pooling of CLIP's ResNet at every position: returns the usual image vector [B, D] and a feature map [B, D, H, W].

    The usual pool has the mean as its only query; here every position is also a query. All positions are keys and values in both.
    """
    height, width = map_BCHW.shape[2:]
    token_BPC = map_BCHW.flatten(2).transpose(1, 2)
    position_PC = (_cut if positions == "cut" else _resized)(pool.position_PD, height, width)
    x_BPC = torch.cat([token_BPC.mean(1, keepdim=True), token_BPC], dim=1) + position_PC.to(token_BPC.dtype)
    q, k, v = (layer(x_BPC).unflatten(-1, (pool.heads, -1)).transpose(1, 2) for layer in (pool.q, pool.k, pool.v))
    out_BPD = pool.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return out_BPD[:, 0], out_BPD[:, 1:].transpose(1, 2).unflatten(2, (height, width))


class ResNetTap(DenseTap):
    """Tap of CLIP's residual network: its four stages, and the attention pool at every position of the last.

    positions  "resized", as DenseCLIP's segmenter is released, or "cut", as its detectors are
    """

    level = 3

    def __init__(self, tower: CLIPResNet, *, positions: Positions = "resized") -> None:
        super().__init__()
        if positions not in ("resized", "cut"):
            raise ConfigError(f"positions is {positions!r} (expected resized | cut)")
        self.tower, self.positions = tower, positions
        self.channels = tower.channels
        self.width = tower.width

    @property
    def pool(self) -> MeanQueryPool:
        if not isinstance(self.tower.pool, MeanQueryPool):
            raise ConfigError("a dense tap needs CLIP's attention pool (expected a tower with pool attention)")
        return self.tower.pool

    def forward(self, image_BCHW: Tensor) -> DenseMaps:
        maps = self.tower.maps(image_BCHW)
        return DenseMaps(maps, *dense_pool(self.pool, maps[-1], self.positions))


class ViTTap(DenseTap):
    """Tap of a vision transformer: states after four blocks, resampled to four strides,
    and final norm and projection at every position.

    Published for patches of 16 and 8 pixels, states after blocks 4, 6, 8 and 12 of 12; other depths use the same fractions.

    Pixels after the last whole patch are ignored, as in the released code.

    class_twice  the class token is added once more with its position, as in the released code;
    False: the picture's vector is CLIP's
    drop_path    stochastic depth, from 0 in the first block to this rate in the last
    """

    level = 2

    def __init__(
        self,
        tower: VisionTransformer,
        projection: nn.Module,
        width: int,
        *,
        class_twice: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.tower, self.projection, self.width = tower, projection, width
        self.class_twice, self.drop_path = class_twice, drop_path
        depth, inner, self.patch = len(tower.transformer.blocks), tower.width, int(tower.patches.kernel_size[0])
        self.channels = (inner,) * 4
        self.after = tuple(max(1, round(depth * share / 12)) for share in (4, 6, 8, 12))
        if self.patch == 16:
            steps = [_larger(inner, 4), _larger(inner, 2), nn.GroupNorm(1, inner), _smaller(inner, 2)]
        elif self.patch == 8:
            steps = [_larger(inner, 2), nn.GroupNorm(1, inner), _smaller(inner, 2), _smaller(inner, 4)]
            self.level = 1
        else:
            raise ConfigError(f"patches of {self.patch} pixels have no dense tap (expected 16 or 8)")
        self.steps = nn.ModuleList(steps)

    def forward(self, image_BCHW: Tensor) -> DenseMaps:
        if min(image_BCHW.shape[2:]) < STRIDE:
            raise ShapeError(f"images are {list(image_BCHW.shape)} (expected sides of {STRIDE} pixels or more)")
        tower = self.tower
        assert tower.class_token_D is not None
        map_BCHW = tower.patches(image_BCHW)
        height, width = map_BCHW.shape[2:]
        class_B1C = tower.class_token_D.expand(len(image_BCHW), 1, -1).to(map_BCHW.dtype)
        position_PC = _resized(tower.position_PD, height, width).to(map_BCHW.dtype)
        x_BPC = torch.cat([class_B1C, map_BCHW.flatten(2).transpose(1, 2)], dim=1) + position_PC
        if self.class_twice:
            x_BPC = torch.cat([x_BPC[:, :1] + class_B1C, x_BPC[:, 1:]], dim=1)
        x_BPC, states = tower.norm_before(x_BPC), {}
        last = len(tower.transformer.blocks) - 1
        for number, block in enumerate(tower.transformer.blocks):
            assert isinstance(block, Block)
            rate = self.drop_path * number / max(1, last) if self.training else 0.0
            x_BPC = x_BPC + _dropped(block.attention(block.norm_1(x_BPC)), rate)
            x_BPC = x_BPC + _dropped(block.mlp_out(block.act(block.mlp_in(block.norm_2(x_BPC)))), rate)
            states[number + 1] = x_BPC
        maps = [
            step(states[after][:, 1:].transpose(1, 2).unflatten(2, (height, width)))
            for step, after in zip(self.steps, self.after, strict=True)
        ]
        projected_BPD = self.projection(tower.norm_after(x_BPC))
        return DenseMaps(maps, projected_BPD[:, 0], projected_BPD[:, 1:].transpose(1, 2).unflatten(2, (height, width)))


class PyramidTap(DenseTap):
    """Tap of any backbone with maps of strides 4 to 32, such as an ImageNet one, with a learned projection of the last map.

    The picture's vector is the mean of the projected positions.
    """

    level = 3

    def __init__(self, backbone: nn.Module, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        if len(channels) != len(STRIDES):
            raise ConfigError(f"the backbone has {len(channels)} maps (expected four, of strides 4, 8, 16 and 32)")
        self.backbone, self.channels, self.width = backbone, channels, width
        self.projection = nn.Conv2d(channels[-1], width, 1)

    def forward(self, image_BCHW: Tensor) -> DenseMaps:
        maps = list(self.backbone(image_BCHW))
        dense_BDHW = self.projection(maps[-1])
        return DenseMaps(maps, dense_BDHW.mean((2, 3)), dense_BDHW)


def fit_positions(tower: Tower, image_size: int) -> None:
    """Resize a CLIP tower's position table in place for square images of that size, and update its `spec`."""
    if isinstance(tower, CLIPResNet):
        if not isinstance(tower.pool, MeanQueryPool) or tower.image_height != tower.image_size:
            raise ConfigError(
                "positions are those of CLIP's attention pool over square images (expected no max pool, no image_height)"
            )
        side = image_size // STRIDE
        tower.pool.position_PD = nn.Parameter(_resized(tower.pool.position_PD.detach(), side, side).clone())
    elif isinstance(tower, VisionTransformer) and tower.class_token_D is not None:
        side = image_size // int(tower.patches.kernel_size[0])
        tower.position_PD = nn.Parameter(_resized(tower.position_PD.detach(), side, side).clone())
    else:
        raise ConfigError(f"{type(tower).__name__} has no dense tap (expected CLIP's residual network or vision transformer)")
    if image_size % STRIDE:
        raise ConfigError(f"crops of {image_size} pixels (expected a multiple of {STRIDE})")
    tower.image_size = image_size
    tower.image_height = image_size
    tower.spec = {**tower.spec, "image_size": image_size}


def _resized(position_PC: Tensor, height: int, width: int) -> Tensor:
    """Return positions of the class token and of a square grid, the grid resized bilinearly."""
    side = round((len(position_PC) - 1) ** 0.5)
    if (side, side) == (height, width):
        return position_PC
    square_1CHW = position_PC[1:].T.unflatten(1, (side, side))[None]
    resized_1CHW = F.interpolate(square_1CHW, size=(height, width), mode="bilinear", align_corners=False)
    return torch.cat([position_PC[:1], resized_1CHW[0].flatten(1).T])


def _cut(position_PC: Tensor, height: int, width: int) -> Tensor:
    """Return positions of the class token and of the upper left part of a square grid."""
    side = round((len(position_PC) - 1) ** 0.5)
    if max(height, width) > side:
        here = f"{height * STRIDE} x {width * STRIDE}"
        raise ShapeError(f"an image has {here} pixels (expected {side * STRIDE} per side at most, for which there are positions)")
    square_HWC = position_PC[1:].unflatten(0, (side, side))[:height, :width]
    return torch.cat([position_PC[:1], square_HWC.flatten(0, 1)])


def _larger(channels: int, factor: int) -> nn.Sequential:
    steps: list[nn.Module] = [nn.GroupNorm(1, channels), nn.ConvTranspose2d(channels, channels, 2, stride=2)]
    if factor == 4:
        steps += [nn.BatchNorm2d(channels), nn.GELU(), nn.ConvTranspose2d(channels, channels, 2, stride=2)]
    return nn.Sequential(*steps)


def _smaller(channels: int, factor: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(1, channels), nn.MaxPool2d(factor, stride=factor))


def _dropped(branch_BPC: Tensor, rate: float) -> Tensor:
    """Stochastic depth: drop the branch of a picture at that rate, and scale up the others."""
    if not rate:
        return branch_BPC
    kept_B11 = torch.empty(len(branch_BPC), 1, 1, device=branch_BPC.device, dtype=branch_BPC.dtype).bernoulli_(1 - rate)
    return branch_BPC * kept_B11 / (1 - rate)
