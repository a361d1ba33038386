"""Copies of device tensors to host memory with few synchronisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """A copy of a small tensor, begun at once. `tolist` waits for the copy alone, which one step later is over."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor.detach().to("cpu", non_blocking=tensor.device.type == "cuda")
        if tensor.device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record()

    def tolist(self) -> list[Any]:
        """The values of the flattened tensor."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        values: list[Any] = self._host.reshape(-1).tolist()
        return values


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies in main memory, for which the host waits once; tensors that are there already come back as they are."""
    last = max((index for index, tensor in enumerate(tensors) if tensor.device.type != "cpu"), default=-1)
    # a stream keeps its order: the last copy, for which the host waits, ends after the others
    return [
        tensor.detach().to("cpu", non_blocking=index < last and tensor.device.type == "cuda")
        for index, tensor in enumerate(tensors)
    ]
