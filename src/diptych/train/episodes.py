"""Episodes of a run, each of which starts with a pass over all samples that it will train on (ProtoCLIP)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diptych.core.contracts import Batch, Hook, Run
from diptych.core.errors import ConfigError

Collect = Callable[[Any, Any], Mapping[str, Tensor]]
"""(features, batch) of a step -> named rows to keep."""
Learn = Callable[[nn.Module, Mapping[str, Tensor], int], None]
"""(model, the rows of the episode from all processes, number of the episode) -> changes buffers of the model."""


class Episodes(Hook):
    """Every `steps` steps, but not before the first: runs the model in evaluation mode over the batches of the coming episode and hands
    what `collect` keeps to `learn`. Rows of all processes, step by step and in rank order within a step.

    What is learned has to be in buffers of the model; then a run that stops in the middle of an episode goes on with it, and one that
    stops between two looks again, with the same result. Costs a forward pass over everything. `active` says whether a stage has episodes.
    """

    name = "episodes"

    def __init__(
        self, steps: int, collect: Collect, learn: Learn, *, active: Callable[[Any], bool] = lambda recipe: True
    ) -> None:
        if steps < 1:
            raise ConfigError(f"an episode of {steps} steps (expected 1 or more)")
        self.steps, self.collect, self.learn, self.active = steps, collect, learn, active

    def before_step(self, run: Run, batch: Batch) -> None:
        if run.step == 0 or run.step % self.steps or not self.active(run.recipe):
            return
        run.model.eval()
        rows_by_name: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for ahead in run.ahead(self.steps):
                for name, rows in self.collect(run.recipe.features(run.model, ahead), ahead).items():
                    rows_by_name.setdefault(name, []).append(_from_all(rows))
        self.learn(run.model, {name: torch.cat(rows) for name, rows in rows_by_name.items()}, run.step // self.steps)
        run.model.train()


def _from_all(rows: Tensor) -> Tensor:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def from_first(tensor: Tensor) -> Tensor:
    """The tensor of the first process on all of them, for what machines might round differently."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast(tensor, src=0)
    return tensor
