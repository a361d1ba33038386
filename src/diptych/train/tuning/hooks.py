"""Hooks for LoRA adapters and weight-space blending; they keep the initial weights that both need."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Hook, Optimiser, Run, Tuning
from diptych.core.errors import ConfigError
from diptych.models.towers.adapters import MARK, LoRAConfig, add_adapters
from diptych.train.optimise import rule_of
from diptych.train.parallel import shard_like


class Adapters(Hook):
    """Low-rank adapters in place of the weights (`Tuning.lora`). What did not come from the start is trained in full beside them, and so
    is what `lora_full` names; what the recipe or `freeze` leaves as it is gets none.

    spec  the recipe's optimiser, whose rules say what it freezes
    """

    name = "adapters"

    def __init__(self, tuning: Tuning, spec: Optimiser) -> None:
        self.lora = LoRAConfig.parse(
            tuning.lora,
            alpha=tuning.lora_alpha,
            dropout=tuning.lora_dropout,
            random=tuning.lora_random,
            kernel=tuning.lora_kernel,
        )
        self.tuning, self.spec = tuning, spec
        self.full: set[str] = set()

    def begin(self, model: nn.Module, fresh: Collection[str]) -> list[str]:
        """Adapts a model that has its start weights; `fresh` are the parameters that no start gave. Names the modules with an adapter."""
        names = [name for name, _ in model.named_parameters()]
        pattern = self.tuning.lora_full
        beside = {name for name in names if pattern and re.search(pattern, name)}
        if pattern and not beside:
            raise ConfigError(f"--lora-full: no parameter's name has {pattern!r} (the model has {names[0]}, ...)")
        self.full = beside | {name for name in fresh if name in names}
        return self._adapt(model)

    def reshape(self, model: nn.Module) -> nn.Module:
        self._adapt(model)
        return model

    def state(self) -> dict[str, Any]:
        return {"full": sorted(self.full)}

    def load(self, state: dict[str, Any]) -> None:
        self.full = set(state["full"])

    def _adapt(self, model: nn.Module) -> list[str]:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        still = {name for name in names if any(re.search(pattern, name) for pattern in self.tuning.freeze)}
        still |= {name for name in names if (rule := rule_of(name, self.spec.rules)) is not None and rule.lr_scale == 0}
        adapted = add_adapters(model, self.lora, bare=still | self.full)
        for name, parameter in model.named_parameters():
            if name in self.full:
                parameter.requires_grad_(True)
        return adapted


class Blend(Hook):
    """At the end the weights are (1 - share) * start + share * end, running statistics too (WiSE-FT; 2109.01903). Adapters lie over frozen
    weights, which are the start without them, so blending them is scaling them."""

    name = "blend"

    def __init__(self, share: float) -> None:
        self.share = share
        self.start: dict[str, Tensor] = {}

    def begin(self, model: nn.Module) -> None:
        self.start = {name: tensor.detach().clone() for name, tensor in _trainable_state(model).items()}

    @torch.no_grad()
    def on_end(self, run: Run) -> None:
        now = _trainable_state(run.model)
        strange = sorted(now.keys() ^ self.start.keys()) or [name for name in now if now[name].shape != self.start[name].shape]
        if strange:
            raise ConfigError(f"--blend: '{strange[0]}' is not the same at start and end, so that they cannot be mixed")
        for name, tensor in now.items():
            tensor.copy_(torch.lerp(shard_like(self.start[name], tensor), tensor, self.share))
        for name, parameter in run.model.named_parameters():
            if MARK in name and re.search(r"\.lora_(?:embedding_)?B\b", name):
                parameter.mul_(self.share)

    def state(self) -> dict[str, Any]:
        return {"start": dict(self.start)}

    def load(self, state: dict[str, Any]) -> None:
        self.start = dict(state["start"])


def _trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that training may change, without adapters: parameters (frozen ones may be freed later) and running statistics."""
    parameters: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if MARK not in name}
    running = {name: b for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    return parameters | running
