"""Concatenated tokens of a clip's frames.  Letters: B batch, T frames, C channel, H W, P patches per frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diptych.models.towers.outputs import Tower, TowerOutput


class FrameSequenceTower(Tower):
    """Image encoder on the frames of clips [B, T, C, H, W], T * P tokens each; an image [B, C, H,
    W] is a clip of `frames` equal frames.

    mixed  tokens of a batch of images are repeated as a whole and then split into clips,
           as in PLLaVA's release: with more than one image a clip then contains frames of several images
    """

    def __init__(self, inner: Tower, frames: int, *, mixed: bool = False) -> None:
        super().__init__()
        self.inner, self.frames, self.mixed, self.width = inner, frames, mixed, inner.width
        self.image_size: Any = getattr(inner, "image_size", None)

    @property
    def token_width(self) -> int:
        return self.inner.token_width

    def forward(self, image_BTCHW: Tensor) -> TowerOutput:
        if image_BTCHW.ndim == 5:
            read = self.inner(image_BTCHW.flatten(0, 1))
            token, frames = read.tokens_BPD, image_BTCHW.shape[1]
        else:
            read = self.inner(image_BTCHW)
            token, frames = read.tokens_BPD, self.frames
            token = token.repeat(frames, 1, 1) if self.mixed else token.repeat_interleave(frames, 0)
        token_BPD = token.unflatten(0, (-1, frames)).flatten(1, 2)
        return TowerOutput(token_BPD, token_BPD.new_ones(token_BPD.shape[:2]).bool(), token_BPD.mean(1))
