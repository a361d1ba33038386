"""Soft merging of frames inside a frozen image encoder (SimVLG, 2310.03291), initialised as the identity.

Letters: B batch, T frames, N batch times frames, L tokens per frame, C channel, H W, D width, E width of queries and keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.towers.hidden_layer import HiddenLayerTower
from diptych.models.towers.outputs import Tower, TowerOutput
from diptych.models.towers.packaged.timm_tower import TimmTower
from diptych.models.towers.vit import VisionTransformer


class TemporalMerge(nn.Module):
    """x + alpha softmax(q k / sqrt(E)) x over the frames of a clip, separately at each position; alpha starts at 0.

    Queries and keys are projections to `hidden` dimensions in `heads` heads, values are the tokens themselves. The scale is that
    of all of `hidden`, not of one head, as released.
    """

    def __init__(self, width: int, *, hidden: int = 256, heads: int = 8) -> None:
        super().__init__()
        if hidden % heads or width % heads:
            raise ConfigError(f"{heads} heads for {width} and {hidden} dimensions (expected a divisor of both)")
        self.heads, self.hidden, self.frames = heads, hidden, 1
        self.key, self.query = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.alpha = nn.Parameter(torch.zeros(1))
        self._entered: Tensor | None = None

    def forward(self, x_NLD: Tensor, frames: int) -> Tensor:
        if len(x_NLD) % frames:
            raise ShapeError(f"{len(x_NLD)} frames are not clips of {frames} (expected a multiple)")
        clip_BLTD = x_NLD.unflatten(0, (-1, frames)).transpose(1, 2)
        query, key, value = (
            part.unflatten(3, (self.heads, -1)).transpose(2, 3)
            for part in (self.query(clip_BLTD), self.key(clip_BLTD), clip_BLTD)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.hidden**-0.5)
        mixed_NLD = mixed.transpose(2, 3).flatten(3).transpose(1, 2).flatten(0, 1)
        return x_NLD + self.alpha * mixed_NLD

    def remember(self, block: nn.Module, given: tuple[Any, ...]) -> None:
        """Forward pre-hook of a block."""
        self._entered = given[0]

    def change(self, attention: nn.Module, given: Any, answer: Tensor) -> Tensor:
        """Forward hook of a block's attention, before its residual is added."""
        entered, self._entered = self._entered, None
        assert entered is not None
        after = entered + answer
        added: Tensor = self(after, self.frames) - after
        return answer + added


class FrameAverageTower(Tower):
    """Image encoder on clips [B, T, C, H, W] with soft merging of frames in every block; the output is the mean over frames.

    Images [B, C, H, W] are clips of one frame.

    merging  whether there is a `TemporalMerge` in each block; False: the plain mean
    """

    def __init__(self, inner: Tower, *, merging: bool = True, hidden: int = 256, heads: int = 8) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width
        self.image_size: Any = getattr(inner, "image_size", None)
        blocks = encoder_blocks(inner) if merging else []
        self.merges = nn.ModuleList(TemporalMerge(inner.width, hidden=hidden, heads=heads) for _ in blocks)
        for block, merge in zip(blocks, self.merges, strict=True):
            assert isinstance(merge, TemporalMerge)
            block.register_forward_pre_hook(merge.remember)
            (block.attention if hasattr(block, "attention") else block.attn).register_forward_hook(merge.change)

    @property
    def token_width(self) -> int:
        return self.inner.token_width

    def forward(self, image_BTCHW: Tensor) -> TowerOutput:
        clip = image_BTCHW if image_BTCHW.ndim == 5 else image_BTCHW[:, None]
        frames = clip.shape[1]
        for merge in self.merges:
            merge.frames = frames  # type: ignore[assignment]
        read = self.inner(clip.flatten(0, 1))
        token_BPD, pooled_BD = (part.unflatten(0, (-1, frames)).mean(1) for part in (read.tokens_BPD, read.pooled_BD))
        return TowerOutput(token_BPD, read.mask_BP[::frames], pooled_BD)


def encoder_blocks(tower: Tower) -> list[Any]:
    """Return the blocks of a vision transformer. Raises ConfigError for another encoder."""
    inner: Any = tower.inner if isinstance(tower, HiddenLayerTower) else tower
    if isinstance(inner, VisionTransformer):
        return list(inner.transformer.blocks)
    blocks = getattr(inner.net, "blocks", None) if isinstance(inner, TimmTower) else None
    if blocks is None or not all(hasattr(block, "attn") for block in blocks):
        raise ConfigError(f"{type(inner).__name__} has no blocks to merge frames in (expected a vision transformer)")
    if any(getattr(block, "gamma_1", None) is not None for block in blocks):
        raise ConfigError("frames are not merged where blocks scale their branches (expected a vision transformer without)")
    return list(blocks)
