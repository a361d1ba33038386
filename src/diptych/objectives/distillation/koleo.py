"""Spread features evenly: the Kozachenko-Leonenko entropy estimator as a regulariser (KoLeo; Sablayrolles et al., 2018, 1806.03198).

    x = z / |z|,     loss = - mean_n log min_{m != n} |x_n - x_m|

DINOv2 (2304.07193) adds it with weight 0.1, on class tokens of the student before any head; two views of one image are no neighbours
there: call it for each view apart.

What implementations get wrong: half precision, in which near rows are one row; the row itself as its nearest neighbour; a neighbour
that is detached (gradients flow into both).

Letters: N rows of this process, M rows of all processes, T rows of a tile, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, check_equal_rows, gather_rows, mean_over_processes, world


def koleo(
    x_ND: Tensor,
    *,
    eps: float = 1e-8,
    neighbours: Literal["batch", "process"] = "batch",
    tile: int = 512,
    process_group: Group = None,
) -> Tensor:
    """The mean over the rows of all processes; nats. Rows are normalised here; any floating type, computed in at least float32.

    eps         is added to every difference and to the distance, as released: equal rows stay finite
    neighbours  are looked for in the global "batch", as the formula has it, or among the rows of the same "process", as released
    tile        rows at a time when neighbours are looked for: memory grows with the batch and not with its square

    After averaging over processes, gradients are those of the global mean. Raises ShapeError if there is no other row.
    """
    if neighbours not in ("batch", "process") or eps <= 0 or tile < 1:
        raise ConfigError(f"neighbours {neighbours!r}, eps {eps}, tile {tile} (expected batch | process, above 0, 1 or more)")
    check_equal_rows(process_group, x_ND=x_ND)
    with torch.autocast(x_ND.device.type, enabled=False):
        x_ND = F.normalize(x_ND.to(torch.promote_types(x_ND.dtype, torch.float32)), dim=-1, eps=eps)
        everywhere = neighbours == "batch"
        other_MD = gather_rows(x_ND, process_group) if everywhere else x_ND
        if x_ND.ndim != 2 or len(other_MD) < 2:
            raise ShapeError(f"features must be [N, D] with two rows or more, got {list(x_ND.shape)}")
        nearest_N = _nearest(x_ND, other_MD, world(process_group)[0] * len(x_ND) if everywhere else 0, tile)
        distance_N = F.pairwise_distance(x_ND, other_MD[nearest_N], eps=eps)
    return mean_over_processes(-(distance_N + eps).log().mean(), process_group)


@torch.no_grad()
def _nearest(x_ND: Tensor, other_MD: Tensor, offset: int, tile: int) -> Tensor:
    """The row of `other_MD` that is nearest to each row; row n itself stands at `offset` + n."""
    nearest = []
    for start in range(0, len(x_ND), tile):
        cosine_TM = x_ND[start : start + tile] @ other_MD.T
        cosine_TM.diagonal(offset + start)[: len(cosine_TM)].fill_(-torch.inf)
        nearest.append(cosine_TM.argmax(1))
    return torch.cat(nearest)
