"""Cached constant tensors on a device: copying a list in every step would make the host wait for a GPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def constant(values: Any, *, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Tensor of numbers, or of nested sequences of them. Shared: must not be changed in place.

    >>> constant([[1, 2], [3, 4]], device=torch.device("cpu")).tolist()
    [[1, 2], [3, 4]]
    """
    if device.type in ("cpu", "meta"):
        return torch.tensor(values, dtype=dtype, device=device)
    return _kept(_frozen(values), dtype, device)


def _frozen(values: Any) -> Any:
    return tuple(map(_frozen, values)) if isinstance(values, list | tuple) else values


@lru_cache(maxsize=512)
def _kept(values: Any, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # one that is made in inference could not be used in training
        return torch.tensor(values, dtype=dtype, device=device)
