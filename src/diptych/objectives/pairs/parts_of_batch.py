"""Pairs that are compared within parts of a batch alone.  Letters: B pairs of a process, N of all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.objectives.gather import Group, world


def within_parts(count: int, size: int, *, device: torch.device | None = None, process_group: Group = None) -> Tensor:
    """bool [B, N], as `info_nce` takes for `keep_NM`: pairs of the same `size` neighbours of a process, of which the last may be fewer.

    So does a loss that is computed on each GPU by itself, with no gathering between them, look at a batch (UniPT's released code).

    >>> within_parts(3, 2).int().tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    (rank, processes), part_B = world(process_group), torch.arange(count, device=device) // size
    keep_BN = torch.zeros(count, processes * count, dtype=torch.bool, device=device)
    keep_BN[:, rank * count : (rank + 1) * count] = part_B[:, None] == part_B
    return keep_BN
