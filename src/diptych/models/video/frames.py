"""A vision transformer that reads the frames of a clip and lets them talk to each other (X-CLIP, 2208.02816).

Letters: B batch, T frames, C channel, H W, P patches, L tokens of a frame, D width of the tower, J joint space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.attention import Attention
from diptych.models.layers.transformer import Block, Transformer
from diptych.models.towers.outputs import Tower
from diptych.models.towers.vit import VisionTransformer


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """frame_BTJ  the class token of every frame after the last norm, projected
    patch_BTPD  the patches of every frame after the last block, before any norm
    """

    frame_BTJ: Tensor
    patch_BTPD: Tensor


Begins = Literal["released", "plain"]
"""How new attention starts: as PyTorch's `MultiheadAttention` does, queries, keys and values from one uniform (Glorot) with biases of 0, or
as linear layers do."""
Drop = Literal["places", "frames"]


class FrameMessage(nn.Module):
    """Message token of each frame before a block (X-CLIP): its class token mapped, then attention over the clip's frames.

    Frames have no order here.
    """

    def __init__(self, width: int, heads: int, *, eps: float, begins: Begins = "plain") -> None:
        super().__init__()
        self.write, self.norm, self.attention = nn.Linear(width, width), nn.LayerNorm(width, eps=eps), Attention(width, heads)
        if begins == "released":
            multihead_start_(self.attention)

    def forward(self, class_BTD: Tensor, rate: float = 0.0, drop: Drop = "frames") -> Tensor:
        message_BTD: Tensor = self.write(class_BTD)
        return message_BTD + _dropped(self.attention(self.norm(message_BTD)), rate, drop)


def multihead_start_(attention: Attention) -> None:
    """As PyTorch's `MultiheadAttention` starts."""
    nn.init.xavier_uniform_(attention.qkv.weight)
    for bias in (attention.qkv.bias, attention.out.bias):
        nn.init.zeros_(bias)


class FrameTower(nn.Module):
    """A CLIP vision transformer over clips. Its own weights stay what they are; messages are new.

    A message joins the tokens of its frame for one block's attention and is dropped before its MLP. `messages` False reads every frame
    alone, as CLIP does.
    drop_path  stochastic depth, from 0 in the first block to this rate in the last, on every branch (the release), or with
               `drop_messages_only` on the messages' alone (transformers)
    drop       what it leaves out of a branch: "places", one token of all frames of the batch, as released, whose tokens come first; of
               messages, which have frames there, one frame of all clips. "frames": all tokens of a frame, of messages those of a clip
    begins     how messages' attention starts
    """

    def __init__(
        self,
        tower: Tower,
        projection: nn.Module,
        *,
        messages: bool = True,
        drop_path: float = 0.0,
        drop_messages_only: bool = False,
        drop: Drop = "frames",
        begins: Begins = "plain",
    ) -> None:
        super().__init__()
        if drop not in ("places", "frames") or begins not in ("released", "plain"):
            raise ConfigError(f"drop is {drop!r} and begins {begins!r} (expected places | frames, and released | plain)")
        if not isinstance(tower, VisionTransformer) or tower.class_token_D is None:
            raise ConfigError(
                f"{type(tower).__name__} does not read clips (expected CLIP's vision transformer with a class token)"
            )
        self.tower, self.projection = tower, projection
        self.drop_path, self.drop_messages_only, self.drop = drop_path, drop_messages_only, drop
        blocks = [_block(block) for block in tower.transformer.blocks]
        self.messages = (
            nn.ModuleList(
                FrameMessage(tower.width, block.attention.heads, eps=block.norm_1.eps, begins=begins) for block in blocks
            )
            if messages
            else None
        )

    def forward(self, image_BTCHW: Tensor) -> FrameFeatures:
        tower = self.tower
        if image_BTCHW.ndim != 5 or image_BTCHW.shape[2:] != (3, tower.image_size, tower.image_size):
            expected = ["B", "T", 3, tower.image_size, tower.image_size]
            raise ShapeError(f"clips must be {expected}, got {list(image_BTCHW.shape)}")
        count, frames = image_BTCHW.shape[:2]
        assert tower.class_token_D is not None
        patch_NPD = tower.patches(image_BTCHW.flatten(0, 1)).flatten(2).transpose(1, 2)
        x_NLD = torch.cat([tower.class_token_D.to(patch_NPD.dtype).expand(len(patch_NPD), 1, -1), patch_NPD], dim=1)
        x_NLD = tower.norm_before(x_NLD + tower.position_PD.to(x_NLD.dtype))
        last = max(1, len(tower.transformer.blocks) - 1)
        for number, block in enumerate(map(_block, tower.transformer.blocks)):
            rate = self.drop_path * number / last if self.training else 0.0
            length, other = x_NLD.shape[1], 0.0 if self.drop_messages_only else rate
            if self.messages is not None:
                message_BTD = self.messages[number](x_NLD[:, 0].unflatten(0, (count, frames)), rate, self.drop)
                x_NLD = torch.cat([x_NLD, message_BTD.flatten(0, 1)[:, None]], dim=1)
            x_NLD = (x_NLD + _dropped(block.attention(block.norm_1(x_NLD)), other, self.drop))[:, :length]
            x_NLD = x_NLD + _dropped(block.mlp_out(block.act(block.mlp_in(block.norm_2(x_NLD)))), other, self.drop)
        frame_NJ = self.projection(tower.norm_after(x_NLD[:, 0]))
        return FrameFeatures(frame_NJ.unflatten(0, (count, frames)), x_NLD[:, 1:].unflatten(0, (count, frames)))


class FrameMixer(nn.Module):
    """Vectors of T frames to one of the clip: positions, a transformer, the input added again, the mean. Only the positions know the order.

    layers  0 takes the mean of the frames alone
    begins  how queries, keys and values start; all other maps from a truncated normal of deviation 0.02
    """

    def __init__(
        self, width: int, frames: int, *, layers: int, heads: int, act: str = "quick_gelu", begins: Begins = "plain"
    ) -> None:
        super().__init__()
        self.frames = frames
        self.position_TJ = nn.Parameter(torch.empty(frames, width)) if layers else None
        self.transformer = Transformer(width, layers, heads, act=act) if layers else None
        if self.position_TJ is not None:
            nn.init.trunc_normal_(self.position_TJ, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if begins == "released":
            for module in self.modules():
                if isinstance(module, Attention):
                    nn.init.xavier_uniform_(module.qkv.weight)

    def forward(self, frame_BTJ: Tensor) -> Tensor:
        if self.transformer is None or self.position_TJ is None:
            return frame_BTJ.mean(1)
        if frame_BTJ.shape[1] != self.frames:
            raise ShapeError(f"clips have {frame_BTJ.shape[1]} frames (expected {self.frames}, those of the positions)")
        mixed_BTJ: Tensor = self.transformer(frame_BTJ + self.position_TJ) + frame_BTJ
        return mixed_BTJ.mean(1)


def _block(module: nn.Module) -> Block:
    assert isinstance(module, Block)
    return module


def _dropped(branch_NLD: Tensor, rate: float, drop: Drop) -> Tensor:
    """Stochastic depth, a row or a place at a time."""
    if not rate:
        return branch_NLD
    shape = (len(branch_NLD), 1, 1) if drop == "frames" else (1, branch_NLD.shape[1], 1)
    return branch_NLD * F.dropout(branch_NLD.new_ones(*shape), rate)
