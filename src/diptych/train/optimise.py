"""From an `Optimiser` (data) to a torch optimiser: parameter groups, learning rate of each step, clipping."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Optimiser, Rule
from diptych.core.errors import ConfigError, RunError
from diptych.train.lamb import Lamb
from diptych.train.parallel import full


def freeze(model: nn.Module, spec: Optimiser) -> None:
    """Turns gradients off where a rule scales the learning rate by 0. Goes before any data-parallel wrapper."""
    for name, parameter in model.named_parameters():
        rule = _rule(name, spec.rules)
        if rule is not None and rule.lr_scale == 0:
            parameter.requires_grad_(False)


def build_optimiser(model: nn.Module, spec: Optimiser) -> torch.optim.Optimizer:
    """One group for each (learning-rate scale, decay) that occurs. Group key "scale" is the factor of the learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule = _rule(name, spec.rules) or Rule("")
            decays = parameter.ndim >= 2 if rule.decay is None else rule.decay
            groups.setdefault((rule.lr_scale, decays), []).append(parameter)
    if not groups:
        raise ConfigError("no parameter is left to train: every one is frozen by the model or by a rule with lr_scale 0")
    lists = [
        {"params": parameters, "scale": scale, "weight_decay": spec.weight_decay if decays else 0.0}
        for (scale, decays), parameters in groups.items()
    ]
    if spec.coupled_decay and spec.kind != "sgd":
        raise ConfigError(f"coupled_decay goes with sgd, not with {spec.kind}")
    if spec.kind == "adamw":
        return torch.optim.AdamW(lists, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=_fusable(groups))
    if spec.kind == "sgd":
        kind = torch.optim.SGD if spec.coupled_decay else _DecoupledSGD
        return kind(lists, lr=spec.lr, momentum=spec.betas[0])
    return Lamb(lists, lr=spec.lr, betas=spec.betas, eps=spec.eps)


class _DecoupledSGD(torch.optim.SGD):
    """SGD with momentum betas[0] whose weight decay is taken from the weights and never enters the momentum."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            for parameter in group["params"]:
                if parameter.grad is not None and decay:
                    parameter.mul_(1 - group["lr"] * decay)
            group["weight_decay"] = 0.0
        super().step()
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay


def learning_rate(spec: Optimiser, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up from lr / warmup, then the schedule: cosine and
    linear go down to lr * final_lr, step to a tenth at once."""
    warmup = round(spec.warmup) if spec.warmup >= 1 else round(spec.warmup * steps)
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    if spec.schedule == "constant":
        return spec.lr
    if spec.schedule == "step":
        return spec.lr if step < spec.drop_at * steps else spec.lr / 10
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    share = 0.5 * (1 + math.cos(math.pi * progress)) if spec.schedule == "cosine" else 1 - progress
    return spec.lr * (spec.final_lr + (1 - spec.final_lr) * share)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


def clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Global gradient norm before clipping, over all shards; scales gradients to `limit` when that is above 0 and exceeded."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = float(full(torch.nn.utils.get_total_norm(grads)))
    if not math.isfinite(norm):
        raise RunError(f"the gradient norm is {norm}: lower lr, lengthen warmup, or set clip_norm (a loss may be undefined)")
    if 0 < limit < norm:
        torch._foreach_mul_(grads, limit / (norm + 1e-6))
    return norm


def silent_parameters(model: nn.Module) -> list[str]:
    """Names of trainable parameters that the last backward pass did not reach."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def _rule(name: str, rules: tuple[Rule, ...]) -> Rule | None:
    return next((rule for rule in rules if re.search(rule.pattern, name)), None)


def _fusable(groups: dict[tuple[float, bool], list[nn.Parameter]]) -> bool:
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for parameters in groups.values() for p in parameters)


def optimiser_state(model: nn.Module, memory: Mapping[Any, Mapping[str, Any]]) -> Iterator[tuple[str, str, Tensor | float | int]]:
    """(parameter name, key, value) for everything that an optimiser remembers of the parameters, shards put together."""
    for name, parameter in model.named_parameters():
        for key, value in memory.get(parameter, {}).items():
            yield name, key, full(value) if isinstance(value, Tensor) else value
