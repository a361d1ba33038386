"""Vector quantisation with a learned codebook (van den Oord et al., 2017, 1711.00937), as TL;DR uses it.  Letters: B batch,
P patches, D width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.randomness import keyed_seed


@dataclass(frozen=True, slots=True)
class CodebookOutput:
    """straight_BPD  codes in the forward pass, with a straight-through gradient to the patches
    patch_BPD     the input of the quantisation
    code_BPD      the nearest code of each patch, with the codebook's gradient
    id_BP         indices of the codes
    """

    straight_BPD: Tensor
    patch_BPD: Tensor
    code_BPD: Tensor
    id_BP: Tensor


class Codebook(nn.Module):
    """Codebook of K vectors, initialised uniformly in (-1/K, 1/K) as published. Few patches are near these;
    `revive` moves unused codes.
    """

    unused_K: Tensor
    moves: Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.code_KD = nn.Parameter(torch.empty(codes, width).uniform_(-1 / codes, 1 / codes))
        self.register_buffer("unused_K", torch.zeros(codes, dtype=torch.int64))
        self.register_buffer("moves", torch.zeros((), dtype=torch.int64))

    def forward(self, patch_BPD: Tensor) -> CodebookOutput:
        id_BP = self.nearest(patch_BPD)
        code_BPD = self.code_KD[id_BP]
        return CodebookOutput(patch_BPD + (code_BPD - patch_BPD).detach(), patch_BPD, code_BPD, id_BP)

    def nearest(self, patch_BPD: Tensor) -> Tensor:
        """Return the index of the nearest code by squared distance, int64 [B, P]; the first one on a tie."""
        flat = patch_BPD.detach().flatten(0, -2)
        code_KD = self.code_KD.detach()
        distance = code_KD.square().sum(1) - 2 * flat @ code_KD.T  # without |z|^2, which is the same for every code
        return distance.argmin(1).view(patch_BPD.shape[:-1])

    @torch.no_grad()
    def revive(self, id_N: Tensor, patch_ND: Tensor, *, after: int) -> None:
        """Move unused codes to patches; call it once per step with the patches of all processes.

        A code that was the nearest of no patch for `after` steps moves to a patch of this step (Dhariwal et al., 2020,
        2005.00341). The choice depends on the patches and the number of earlier moves,
        so processes agree and a resumed run equals an uninterrupted one.
        """
        used_K = torch.bincount(id_N, minlength=len(self.code_KD)) > 0
        self.unused_K.add_(1).masked_fill_(used_K, 0)
        idle = (self.unused_K >= after).nonzero().flatten()[: len(patch_ND)]
        if len(idle) == 0:
            return
        draw = torch.Generator().manual_seed(keyed_seed("revived codes", int(self.moves)))
        rows = torch.randperm(len(patch_ND), generator=draw)[: len(idle)].to(patch_ND.device)
        self.code_KD[idle] = patch_ND[rows].to(self.code_KD.dtype)
        self.unused_K[idle] = 0
        self.moves += 1
