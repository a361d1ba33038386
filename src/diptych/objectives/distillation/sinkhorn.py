"""Prototypes by balanced assignment in place of a centre (Sinkhorn-Knopp; SwAV, 2006.09882; DINOv2, 2304.07193).

    Q = exp(z / tau), then in turn: every prototype gets 1 / K of the mass, every item 1 / N

Letters: N items of this process, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes, world


@torch.no_grad()
def sinkhorn_knopp(
    teacher_NK: Tensor,
    *,
    tau: float | Tensor = 0.04,
    iterations: int = 3,
    mask_N: Tensor | None = None,
    process_group: Group = None,
) -> Tensor:
    """Shares [N, K] that sum to 1 over prototypes, 0 where the mask is False; items of all processes are balanced together."""
    if teacher_NK.ndim != 2 or iterations < 1:
        raise ShapeError(f"answers must be [N, K], got {list(teacher_NK.shape)}, {iterations} iterations (expected 1 or more)")
    if not isinstance(tau, Tensor) and tau <= 0:
        raise ConfigError(f"tau is {tau} (expected above 0)")
    dtype = torch.promote_types(teacher_NK.dtype, torch.float32)
    score_NK = teacher_NK.to(dtype) / tau
    share_NK = (score_NK - score_NK.amax()).exp() if world(process_group)[1] == 1 else score_NK.exp()
    if mask_N is not None:
        share_NK = share_NK * mask_N[:, None]
    tiny = torch.finfo(dtype).tiny
    for _ in range(iterations):
        total_K = mean_over_processes(share_NK.sum(0), process_group) * world(process_group)[1]
        share_NK = share_NK / total_K.clamp_min(tiny)
        share_NK = share_NK / share_NK.sum(1, keepdim=True).clamp_min(tiny)
    return share_NK
