"""Ranks of a made-up group as threads of one process: what they gather is one graph, so that gradients can be compared exactly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn


class ThreadedRanks:
    """Collectives of `world` threads, each of which calls them in the same order."""

    def __init__(self, world: int = 2) -> None:
        self.world, self._barrier = world, threading.Barrier(world, timeout=60)
        self._given: list[Tensor | None] = [None] * world

    def run(self, model: nn.Module, work: Callable[[int, Any], Any]) -> list[Any]:
        """What `work(rank, model)` returns on each; the copies of the model share its parameters."""
        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(work, range(self.world), [self._on_rank(copy(model), rank) for rank in range(self.world)]))

    def _on_rank(self, model: Any, rank: int) -> Any:
        model.world = lambda: (rank, self.world)
        model.gather = lambda x: self._all(rank, x).detach()
        model.gather_rows = lambda x: self._all(rank, x).flatten(0, 1)
        if rank:
            model.draw = _never
        return model

    def _all(self, rank: int, x: Tensor) -> Tensor:
        self._given[rank] = x
        self._barrier.wait()
        every = torch.stack([given for given in self._given if given is not None])
        self._barrier.wait()
        return every


def likeliest(logit_NM: Tensor, may_NM: Tensor) -> Tensor:
    """The likeliest wrong partner of each row."""
    return logit_NM.masked_fill(~may_NM, float("-inf")).argmax(1)


def assert_learn_alike(model: nn.Module, one: Tensor, other: Tensor) -> None:
    """Equal losses with equal gradients."""
    gradients = []
    for loss in (one, other):
        model.zero_grad()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0]
    torch.testing.assert_close(other, one, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


def _never(logit_NM: Tensor, may_NM: Tensor) -> Tensor:
    """What other ranks than the first draw, which nobody may use."""
    return torch.zeros(len(logit_NM), dtype=torch.int64)
