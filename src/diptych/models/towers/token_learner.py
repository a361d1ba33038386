"""TokenLearner (2106.11297): a few tokens from all patches, as in FILIP's implementation in MindFormers.

Letters: B batch, P patches, T tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.towers.outputs import Tower, TowerOutput


class TokenLearner(nn.Module):
    """Computes `tokens` weighted sums over a square of patches.

    The weights are a softmax over patches of two 1x1 convolutions of the normed patches, the first one grouped;
    the values are a grouped 1x1 convolution of the patches. No convolution has a bias.
    """

    def __init__(self, width: int, tokens: int, groups: int) -> None:
        super().__init__()
        if width % groups:
            raise ConfigError(f"{width} channels cannot be cut into {groups} groups (expected groups that divide the width)")
        self.norm = nn.LayerNorm(width)
        self.mix, self.weigh = nn.Conv2d(width, width, 1, groups=groups, bias=False), nn.Conv2d(width, tokens, 1, bias=False)
        self.value = nn.Conv2d(width, width, 1, groups=groups, bias=False)

    def forward(self, patch_BPD: Tensor) -> Tensor:
        """[B, tokens, D]."""
        side = math.isqrt(patch_BPD.shape[1])
        normed_BDHW, patch_BDHW = (x_BPD.transpose(1, 2).unflatten(2, (side, -1)) for x_BPD in (self.norm(patch_BPD), patch_BPD))
        weight_BTP: Tensor = self.weigh(self.mix(normed_BDHW)).flatten(2).softmax(-1)
        learned_BTD: Tensor = weight_BTP @ self.value(patch_BDHW).flatten(2).transpose(1, 2)
        return learned_BTD


class TokenLearnerTower(Tower):
    """Tower that projects the patches and the pooled vector of `inner` into the joint space of `out` dimensions,
    with `tokens` tokens.
    """

    projects = True

    def __init__(self, inner: Tower, out: int, *, tokens: int, groups: int) -> None:
        super().__init__()
        self.inner, self.width = inner, out
        self.joint, self.learner = nn.Linear(inner.width, out, bias=False), TokenLearner(out, tokens, groups)
        self.image_size: Any = getattr(inner, "image_size", None)

    @property
    def token_width(self) -> int:
        return self.width

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        output = self.inner(image_BCHW)
        token_BTD = self.learner(self.joint(output.tokens_BPD))
        return TowerOutput(token_BTD, token_BTD.new_ones(token_BTD.shape[:2]).bool(), self.joint(output.pooled_BD))
