"""Hooks that many recipes share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Hook, Run
from diptych.core.errors import ConfigError, RunError
from diptych.train.parallel import shard_like


class WeightAverage(Hook):
    """Keeps an exponential moving average of the trained weights and puts it into the model when the run ends.

    decay   share of the old average that stays at a step
    early   whether it is at most (1 + t) / (10 + t) at the t-th step, so that random initial weights are forgotten quickly
    Checkpoints hold the raw weights and the average; evaluations during the run see the raw weights, `model/` has the average.
    Buffers (batch norm) are not averaged. After a change of stage or of the model the average starts again for new tensors.
    """

    name = "weight_average"

    def __init__(self, decay: float = 0.999, *, early: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay of a weight average is {decay} (expected at least 0 and below 1)")
        self.decay, self.early = decay, early
        self.count = 0
        self.average: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_start(self, run: Run) -> None:
        self._follow(run.model)

    @torch.no_grad()
    def after_step(self, run: Run, losses: Mapping[str, float]) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.early else self.decay
        self._follow(run.model)
        for name, parameter in _trained_parameters(run.model).items():
            self.average[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def on_end(self, run: Run) -> None:
        for name, parameter in _trained_parameters(run.model).items():
            if name not in self.average:
                raise RunError(f"the weight average has no tensor '{name}'")
            parameter.copy_(self.average[name])

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "average": dict(self.average)}

    def load(self, state: dict[str, Any]) -> None:
        self.count, self.average = int(state["count"]), dict(state["average"])

    def _follow(self, model: nn.Module) -> None:
        """Averages for exactly the tensors that are trained now, placed as they are."""
        now = _trained_parameters(model)
        kept = {name: old for name, old in self.average.items() if name in now and old.shape == now[name].shape}
        self.average = {name: shard_like(kept[name], p) if name in kept else p.detach().clone() for name, p in now.items()}


def _trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
