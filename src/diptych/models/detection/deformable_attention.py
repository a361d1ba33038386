"""Multi-scale deformable attention (Deformable DETR, 2010.04159): each query reads a few points of every level, not every place.

    out(q) = W_o concat_m sum_l sum_k  A_mlk(q) (W_v x_l)_m [ p + d_mlk(q) / (W_l, H_l) ]        reference p = (x, y)
                                                             [ p_xy + d_mlk(q) / K * p_wh / 2 ]   reference p = (x, y, w, h)

A is a softmax over the L K points of a head. Offsets d are in pixels of their level for a point, and relative to half the box for a box.
Sampling is linear, so W_v may come before it, at every place, or after it, at what every head of every query read: a decoder's
few queries read less than there is.

Letters: B batch, Q queries, M heads, L levels, K points, P positions of all levels, D width, E width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.constants import constant
from diptych.models.detection.point_sampling import Shapes, sample_points, sparse_pays

READ = 6
"""What a number costs that is read at a corner, in multiplications of a projection, forward and backward, on processors."""
BIAS_COLUMNS = 8
"""Columns of ones that are read beside a memory. One would do for the bias; rows of odd width are slow."""


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, Zhu et al., 2020): each head samples `points` positions in each of
    `levels` maps.

    It starts as published: offsets do not depend on the query and lie on a ring, head m looking in direction 2 pi m / M, its k-th
    point k + 1 pixels away; all points weigh the same. `reset_parameters` restores that, and has to be called after anything that
    initialises all layers of a model alike.
    """

    def __init__(self, width: int, heads: int, *, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        if min(heads, levels, points) < 1:
            raise ConfigError(f"{heads} heads, {levels} levels, {points} points (expected one or more of each)")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        angle_M = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction_M2 = torch.stack((angle_M.cos(), angle_M.sin()), -1)
        direction_M2 /= direction_M2.abs().amax(-1, keepdim=True)
        distance_K1 = torch.arange(1, self.points + 1)[:, None]
        ring_MLK2 = (direction_M2[:, None, None] * distance_K1).expand(-1, self.levels, -1, -1)
        self.offsets.bias.copy_(ring_MLK2.flatten())
        for zero in (self.offsets.weight, self.weights.weight, self.weights.bias, self.value.bias, self.out.bias):
            nn.init.zeros_(zero)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(
        self,
        query_BQD: Tensor,
        reference_BQLC: Tensor,
        memory_BPD: Tensor,
        shapes: Shapes,
        mask_BP: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, D].

        reference_BQLC  where each query looks in each level, C = 2 (x, y) or 4 (x, y, w, h), in 0..1 of the padded map
        shapes          (height, width) of each level, whose places follow each other in `memory_BPD`, row by row
        mask_BP         True at real positions; padding reads as zero
        """
        self._check(query_BQD, reference_BQLC, memory_BPD, shapes)
        grid = (self.levels, self.points)
        attention_BQMLK = self.weights(query_BQD).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, grid)
        location_BQMLK2 = self._locations(self.offsets(query_BQD), reference_BQLC, shapes).unflatten(-1, (*grid, 2))
        read = self._read_first if self._few_reads(memory_BPD, attention_BQMLK) else self._projected_first
        out_BQD: Tensor = self.out(read(memory_BPD, mask_BP, location_BQMLK2, attention_BQMLK, shapes))
        return out_BQD

    def _projected_first(
        self, memory_BPD: Tensor, mask_BP: Tensor | None, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: Shapes
    ) -> Tensor:
        value_BPD = self.value(memory_BPD)
        if mask_BP is not None:
            value_BPD = value_BPD.masked_fill(~mask_BP[..., None], 0.0)
        return sample_points(value_BPD.unflatten(-1, (self.heads, -1)), location_BQMLK2, attention_BQMLK, shapes)

    def _read_first(
        self, memory_BPD: Tensor, mask_BP: Tensor | None, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: Shapes
    ) -> Tensor:
        """Each head of each query reads whole rows of the memory, as if it were a query; then its part of W_v is multiplied. The bias
        counts as often as real positions were read, which columns of ones tell."""
        batch, queries, heads, *grid = attention_BQMLK.shape
        width = memory_BPD.shape[2]
        real_BPC = memory_BPD.new_ones(*memory_BPD.shape[:2], BIAS_COLUMNS)
        if mask_BP is not None:
            memory_BPD, real_BPC = (x.masked_fill(~mask_BP[..., None], 0.0) for x in (memory_BPD, real_BPC))
        location_BNLK2 = location_BQMLK2.reshape(batch, queries * heads, 1, *grid, 2)
        attention_BNLK = attention_BQMLK.reshape(batch, queries * heads, 1, *grid)
        sampled_BND, bias_BNC = (
            sample_points(x[:, :, None], location_BNLK2, attention_BNLK, shapes) for x in (memory_BPD, real_BPC)
        )
        sampled_MND, bias_MNC = (x.reshape(batch * queries, heads, -1).transpose(0, 1) for x in (sampled_BND, bias_BNC))
        weight_MED, bias_M1E = self.value.weight.view(heads, -1, width), self.value.bias.view(heads, 1, -1)
        value_MNE = torch.baddbmm(bias_MNC[..., :1] * bias_M1E, sampled_MND, weight_MED.mT)
        return value_MNE.transpose(0, 1).reshape(batch, queries, width)

    def _few_reads(self, memory_BPD: Tensor, attention_BQMLK: Tensor) -> bool:
        """True if sampling raw rows costs less than projecting all of them. An adapter on W_v has to see every position."""
        reads, width = 4 * attention_BQMLK.numel(), memory_BPD.shape[2]
        cheaper = READ * reads < memory_BPD.shape[:2].numel() * width
        return cheaper and type(self.value) is nn.Linear and sparse_pays(memory_BPD, attention_BQMLK.numel())

    def _locations(self, offset_BQO: Tensor, reference_BQLC: Tensor, shapes: Shapes) -> Tensor:
        """[B, Q, M, L K 2]. References are spread over points first: sums over a last dimension of 2 would be slow."""
        offset_BQMS = offset_BQO.unflatten(-1, (self.heads, -1))
        point_BQ1S = self._spread(reference_BQLC[..., :2])
        if reference_BQLC.shape[-1] == 4:
            return torch.addcmul(point_BQ1S, offset_BQMS, self._spread(reference_BQLC[..., 2:] * (0.5 / self.points)))
        sizes = [[1 / width, 1 / height] for height, width in shapes]
        pixel_L2 = constant(sizes, dtype=reference_BQLC.dtype, device=reference_BQLC.device)
        return torch.addcmul(point_BQ1S, offset_BQMS, self._spread(pixel_L2[None, None]))

    def _spread(self, x_BQL2: Tensor) -> Tensor:
        return x_BQL2[..., None, :].expand(-1, -1, -1, self.points, -1).flatten(2)[:, :, None]

    def _check(self, query_BQD: Tensor, reference_BQLC: Tensor, memory_BPD: Tensor, shapes: Shapes) -> None:
        lead = (*query_BQD.shape[:2], self.levels)
        if tuple(reference_BQLC.shape[:3]) != lead or reference_BQLC.shape[3] not in (2, 4):
            raise ShapeError(f"references must be [{lead[0]}, {lead[1]}, {lead[2]}, 2 or 4], got {list(reference_BQLC.shape)}")
        positions = sum(height * width for height, width in shapes)
        if len(shapes) != self.levels or positions != memory_BPD.shape[1]:
            raise ShapeError(
                f"{self.levels} levels expected, got the shapes {list(shapes)} for {memory_BPD.shape[1]} positions of memory"
            )
