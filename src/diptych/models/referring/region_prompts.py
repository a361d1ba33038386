"""Region prompts: regions of a picture as tokens (REF-VLM, 2503.07413).

Letters: B batch, N regions, H W pixels of a region's mask, P patches, S side of the patch grid, G cells, F features.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError

Cells = Literal["grid", "bands"]


class RegionPrompts(nn.Module):
    """Encodes each region as nine pooled vectors and a mask vector, in the width of image features, for the same connector.

    A region's mask is resized to the patches, set to 1 where it is above 0, and divided by its area;
    each cell of the picture sums the features of its patches with these weights.
    A cell outside the region is 0 before its position is added.

    cells  "grid": three by three squares; "bands": as released, where a reshape splits the patches, row by row, into nine runs
    side   cells along a side
    masked  add the last vector: a linear map of the mask's mean over the patches, which is the same for all regions

    Raises ConfigError for a side that does not divide the patches.
    """

    def __init__(self, features: int, *, cells: Cells = "grid", side: int = 3, masked: bool = True) -> None:
        super().__init__()
        if cells not in ("grid", "bands") or side < 1:
            raise ConfigError(f"cells is {cells!r}, side {side} (expected grid | bands, and 1 or more)")
        self.cells, self.side = cells, side
        self.count = side * side + masked
        self.mask_embedding = nn.Linear(1, features) if masked else None
        self.position_embedding = nn.Embedding(self.count, features)

    def forward(self, feature_BPF: Tensor, region_BNHW: Tensor) -> Tensor:
        """Return tokens [B, N, count, F] from features [B, P, F] and 0-1 masks of regions.
        A region without a pixel is 0 in all cells.
        """
        side = math.isqrt(feature_BPF.shape[1])
        if side * side != feature_BPF.shape[1] or side % self.side:
            raise ShapeError(f"{feature_BPF.shape[1]} patches cannot be cut into {self.side} x {self.side} cells")
        if region_BNHW.shape[-2:] != (side, side):
            region_BNHW = F.interpolate(region_BNHW.to(feature_BPF), size=(side, side), mode="bilinear", align_corners=False)
        weight_BNP = (region_BNHW > 0).to(feature_BPF).flatten(2)
        weight_BNP = weight_BNP / (weight_BNP.sum(-1, keepdim=True) + 1e-8)
        cell_GP = self._cells(side, feature_BPF)
        pooled_BNGF = torch.einsum("gp,bnp,bpf->bngf", cell_GP, weight_BNP, feature_BPF)
        if self.mask_embedding is not None:
            mean_BN1 = weight_BNP.mean(-1, keepdim=True)
            pooled_BNGF = torch.cat([pooled_BNGF, self.mask_embedding(mean_BN1)[:, :, None]], 2)
        prompt_BNGF: Tensor = pooled_BNGF + self.position_embedding.weight
        return prompt_BNGF

    def _cells(self, side: int, like: Tensor) -> Tensor:
        """Return [G, P], 1 where a patch belongs to a cell."""
        count = self.side**2
        place_P = torch.arange(side * side, device=like.device)
        if self.cells == "bands":
            cell_P = place_P // (side * side // count)
        else:
            span = side // self.side
            cell_P = place_P // side // span * self.side + place_P % side // span
        return (cell_P == torch.arange(count, device=like.device)[:, None]).to(like)
