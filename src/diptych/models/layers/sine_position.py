"""Sinusoidal position embeddings (DETR, 2005.12872; boxes: DAB-DETR, 2201.12329).

Letters: B batch, H W, D width, F features of one coordinate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine(value_X: Tensor, features: int, *, temperature: float = 10_000.0) -> Tensor:
    """Return [..., features]: sin, cos, sin, cos, ... of 2 pi value, with periods from 1 up to `temperature`."""
    step_F = torch.arange(features // 2, device=value_X.device, dtype=value_X.dtype) * 2 / features
    angle_XF = (value_X * (2 * math.pi))[..., None] / temperature**step_F
    return torch.stack((angle_XF.sin(), angle_XF.cos()), -1).flatten(-2)


def box_sine(box_X4: Tensor, width: int) -> Tensor:
    """Return embeddings [..., 2 width] of cxcywh boxes in 0..1: y, then x, w, h, as published."""
    order_X4 = torch.cat((box_X4[..., 1:2], box_X4[..., :1], box_X4[..., 2:]), -1)  # a list of indices would be copied to the GPU
    return sine(order_X4, width // 2).flatten(-2)


def map_sine(mask_BHW: Tensor, width: int, *, centred: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return embeddings [B, H W, width] of map positions: y, then x, counted over real positions
    (True), from 0 to 1 in each image.

    centred   positions are pixel centres, (i + 1/2) / H, as for the published Swin; for the published ResNet they are (i + 1) / H
    """
    shift = 0.5 if centred else 0.0
    counted = [mask_BHW.cumsum(axis, dtype=dtype) for axis in (1, 2)]
    ends = (counted[0][:, -1:], counted[1][:, :, -1:])
    y_BHW, x_BHW = ((count - shift) / (end + 1e-6) for count, end in zip(counted, ends, strict=True))
    return torch.cat((sine(y_BHW, width // 2), sine(x_BHW, width // 2)), -1).flatten(1, 2)
