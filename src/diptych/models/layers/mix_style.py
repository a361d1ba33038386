"""MixStyle: mixes the channel means and deviations of an image with another image's (Zhou et al., 2021, arXiv 2104.02008).

    x' = sigma_mix (x - mu) / sigma + mu_mix,   mu_mix = l mu + (1 - l) mu_other,   sigma_mix likewise,   l ~ Beta(alpha, alpha)

Statistics are over positions and carry no gradient. It is applied only in training, in a share of the steps.

Letters: B batch, P positions, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError

Mix = Literal["random", "crossdomain"]


class MixStyle(nn.Module):
    """share   of the training steps in which styles are mixed
    alpha   of the Beta distribution of each image's mixing weight; small values mostly keep one style or the other
    mix     source of the style: a random image, or one of the other half of the batch (for batches with two domains,
    half and half)
    """

    def __init__(self, *, share: float = 0.5, alpha: float = 0.1, mix: Mix = "random", eps: float = 1e-6) -> None:
        super().__init__()
        if not 0 <= share <= 1 or alpha <= 0 or mix not in ("random", "crossdomain"):
            raise ConfigError(
                f"MixStyle has share {share}, alpha {alpha}, mix {mix!r} (expected 0..1, above 0, random | crossdomain)"
            )
        self.share, self.alpha, self.eps = share, alpha, eps
        self.mix: Mix = mix

    def forward(self, x_BPD: Tensor) -> Tensor:
        if not self.training or float(torch.rand(())) > self.share:
            return x_BPD
        count = len(x_BPD)
        part = torch.distributions.Beta(self.alpha, self.alpha).sample((count, 1, 1)).to(x_BPD)
        return mix_styles(x_BPD, part, self.others(count).to(x_BPD.device), eps=self.eps)

    def others(self, count: int) -> Tensor:
        """Return the index of the image whose style each image is mixed with, [B]."""
        if self.mix == "random" or count < 2:
            return torch.randperm(count)
        second, first = torch.arange(count - 1, -1, -1).chunk(2)  # the later half comes first
        return torch.cat([second[torch.randperm(len(second))], first[torch.randperm(len(first))]])


def mix_styles(x_BPD: Tensor, part_B11: Tensor, other_B: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Return images whose style is `part_B11` of their own plus the rest of `other_B`."""
    with torch.no_grad():
        mean_B1D = x_BPD.mean(1, keepdim=True)
        deviation_B1D = (x_BPD.var(1, keepdim=True) + eps).sqrt()
        new_mean_B1D = part_B11 * mean_B1D + (1 - part_B11) * mean_B1D[other_B]
        new_deviation_B1D = part_B11 * deviation_B1D + (1 - part_B11) * deviation_B1D[other_B]
    return (x_BPD - mean_B1D) / deviation_B1D * new_deviation_B1D + new_mean_B1D
