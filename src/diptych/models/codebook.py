"""A learned codebook between image and decoder (van den Oord et al., 2017, 1711.00937), as TL;DR uses it.  Letters: B batch, P patches,
D width, K codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Quantised:
    """straight_BPD  the codes going forward, the patches' gradient going back
    patch_BPD     what was quantised
    code_BPD      the nearest code of each patch, with the codebook's gradient
    id_BP         which codes
    """

    straight_BPD: Tensor
    patch_BPD: Tensor
    code_BPD: Tensor
    id_BP: Tensor


class Codebook(nn.Module):
    """K vectors, drawn evenly from (-1/K, 1/K) as published; no running averages, no restart of codes that nobody uses."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.code_KD = nn.Parameter(torch.empty(codes, width).uniform_(-1 / codes, 1 / codes))

    def forward(self, patch_BPD: Tensor) -> Quantised:
        id_BP = self.nearest(patch_BPD)
        code_BPD = self.code_KD[id_BP]
        return Quantised(patch_BPD + (code_BPD - patch_BPD).detach(), patch_BPD, code_BPD, id_BP)

    def nearest(self, patch_BPD: Tensor) -> Tensor:
        """argmin over codes of the squared distance; the first on a tie. int64 [B, P]"""
        flat = patch_BPD.detach().flatten(0, -2)
        code_KD = self.code_KD.detach()
        distance = code_KD.square().sum(1) - 2 * flat @ code_KD.T  # but for |z|^2, which is the same for every code
        return distance.argmin(1).view(patch_BPD.shape[:-1])
