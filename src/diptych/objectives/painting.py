"""Reconstruction loss of a painted picture.  Letters: N pictures, C channel, H W pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes

Distance = Literal["image", "pixel", "l1"]


def painting_distance(
    painted_NCHW: Tensor, true_NCHW: Tensor, *, distance: Distance = "image", process_group: Group = None
) -> Tensor:
    """Mean over pictures, in the unit of their values.

    distance  "image": the Euclidean length of the whole difference, sqrt(sum over C, H, W), which grows with the picture's size; "pixel":
              the mean over places of the length over C; "l1": the mean absolute difference, far worse in PLIP's ablation
    """
    if painted_NCHW.shape != true_NCHW.shape:
        raise ShapeError(f"pictures must be of one shape, got {list(painted_NCHW.shape)} and {list(true_NCHW.shape)}")
    if distance not in ("image", "pixel", "l1"):
        raise ConfigError(f"distance is {distance!r} (expected image | pixel | l1)")
    dtype = torch.promote_types(painted_NCHW.dtype, torch.float32)
    gap_NCHW = painted_NCHW.to(dtype) - true_NCHW.to(dtype)
    if distance == "l1":
        return mean_over_processes(gap_NCHW.abs().mean(), process_group)
    # linalg.vector_norm has a gradient of 0 where nothing differs; a plain square root would have none
    each = torch.linalg.vector_norm(gap_NCHW, dim=(1, 2, 3) if distance == "image" else 1)
    return mean_over_processes(each.mean(), process_group)
