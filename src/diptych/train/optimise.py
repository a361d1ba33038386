"""Builds a torch optimiser from an `Optimiser` specification: parameter groups, learning rate of each step, clipping."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.core.contracts import Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.train.devices.late import require_finite
from diptych.train.optimisers.corrected_adamw import CorrectedAdamW
from diptych.train.optimisers.plain_lamb import PlainLamb
from diptych.train.parallel import full_tensor, shard_like


def freeze(model: nn.Module, spec: Optimiser) -> None:
    """Turns gradients off where a rule scales the learning rate by 0. Goes before any data-parallel wrapper."""
    for name, parameter in model.named_parameters():
        rule = rule_of(name, spec.rules)
        if rule is not None and rule.lr_scale == 0 and not rule.counted:
            parameter.requires_grad_(False)


def build_optimiser(model: nn.Module, spec: Optimiser) -> torch.optim.Optimizer:
    """One group for each (learning-rate scale, decay, length of the schedule) that occurs. Group key "scale" is the factor of the
    learning rate, "length" that of the run's steps that its schedule has, "constant" that it has none."""
    groups: dict[tuple[float, bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rule = rule_of(name, spec.rules) or Rule("")
            decays = parameter.ndim >= 2 if rule.decay is None else rule.decay
            groups.setdefault((rule.lr_scale, decays, rule.length, rule.constant), []).append(parameter)
    if not groups:
        raise ConfigError("no parameter is left to train: every one is frozen by the model or by a rule with lr_scale 0")
    lists = [
        {
            "params": parameters,
            "scale": scale,
            "weight_decay": spec.weight_decay if decays else 0.0,
            "length": length,
            "constant": constant,
        }
        for (scale, decays, length, constant), parameters in groups.items()
    ]
    if spec.coupled_decay and spec.kind not in ("sgd", "adamw"):
        raise ConfigError(f"coupled_decay goes with sgd and adamw, not with {spec.kind}")
    if spec.schedule == "one_cycle" and spec.kind == "sgd":
        raise ConfigError("one_cycle moves betas and goes with adamw, lamb or adan, not with sgd")
    if spec.kind == "adamw" and spec.adam == "transformers":
        if spec.coupled_decay:
            raise ConfigError("coupled_decay goes with torch's adam, not with that of transformers")
        return CorrectedAdamW(lists, lr=spec.lr, betas=spec.betas, eps=spec.eps)
    if spec.kind == "adamw":
        adam = torch.optim.Adam if spec.coupled_decay else torch.optim.AdamW
        return adam(lists, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=_fusable(groups, "cpu", "cuda"))
    if spec.kind == "sgd":
        kind = torch.optim.SGD if spec.coupled_decay else _DecoupledSGD
        return kind(lists, lr=spec.lr, momentum=spec.betas[0], fused=_fusable(groups, "cuda") or None)
    if spec.kind == "lamb" and spec.lamb == "plain":
        return PlainLamb(lists, lr=spec.lr, betas=spec.betas, eps=spec.eps)
    # timm's optimisers bring all of timm and torchvision: only who asks for one waits for them.
    if spec.kind == "adan":
        from diptych.train.optimisers.adan import Adan

        return Adan(lists, lr=spec.lr, betas=spec.betas, third_beta=spec.third_beta, eps=spec.eps)
    from diptych.train.optimisers.lamb import Lamb

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


def learning_rate(spec: Optimiser, step: float, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up from lr / warmup, then the schedule: cosine and
    linear (to the power `power`) go down to lr * final_lr, step to a tenth at once, or several times, decay by a factor after each period.
    One_cycle has its own (`one_cycle`). Of a `part` of a schedule these are the steps."""
    if spec.floor == "cut":
        return max(spec.lr * spec.final_lr, learning_rate(replace(spec, floor="share", final_lr=0.0), step, steps))
    if step < spec.late and spec.late_peak:
        return spec.lr
    begin, end = spec.part
    whole = steps / (end - begin)
    step, steps = max(0, step - spec.late) + round(begin * whole), round(whole)
    warmup = _warmup_steps(spec, steps)
    rising = step < warmup and not (spec.rises == "first" and step * spec.periods / steps + 1e-9 >= 1)
    if spec.schedule == "one_cycle":
        return one_cycle(
            step, steps, spec.warmup if spec.warmup < 1 else spec.warmup / steps, spec.lr / 25, spec.lr, spec.lr / 25e4
        )
    risen = _warmup_share(spec, step, warmup, steps) if rising else 1.0
    if spec.schedule == "half_life":
        return float(spec.lr * risen * 0.5 ** (step / spec.half_life))
    if rising and spec.over != "both":
        return spec.lr * risen
    if spec.schedule == "constant":
        return spec.lr
    if spec.schedule == "step":
        drops = spec.drop_at if isinstance(spec.drop_at, tuple) else (spec.drop_at,)
        return spec.lr / float(10 ** sum(step >= share * steps for share in drops))
    if spec.schedule == "decay":
        return spec.lr * max(spec.final_lr, spec.decay_rate ** int(step * spec.periods / steps + 1e-9))
    if spec.falls == "period":
        step = round(int(step * spec.periods / steps + 1e-9) * steps / spec.periods)
    passed = warmup if spec.over == "rest" else 0
    progress = min(1.0, (step - passed) / max(1, steps - passed))
    share = 0.5 * (1 + math.cos(math.pi * progress)) if spec.schedule == "cosine" else (1 - progress) ** spec.power
    return spec.lr * risen * (spec.final_lr + (1 - spec.final_lr) * share)


def _warmup_steps(spec: Optimiser, steps: int) -> int:
    if spec.warmup >= 1:
        return round(spec.warmup)
    share = spec.warmup * steps
    return {"nearest": round(share), "up": math.ceil(share), "down": math.floor(share)}[spec.warmup_rounds]


def _warmup_share(spec: Optimiser, step: float, warmup: int, steps: int) -> float:
    """The share of the rate at a step of the warm-up: 1 at most, also where it was to start above."""
    if spec.rises == "log":
        return min(1.0, math.log(step + 1) / math.log(max(2, warmup)))
    if spec.rises == "period":
        return min(1.0, (int(step * spec.periods / steps + 1e-9) + 1) * steps / (spec.periods * warmup))
    if spec.warmup_from is None:
        return (step + 1) / warmup
    if spec.warmup_stair:
        step = max(0, step - 1) // spec.warmup_stair * spec.warmup_stair
    last = max(1, warmup - (spec.warmup_peak == "last"))
    return min(1.0, spec.warmup_from + (1 - spec.warmup_from) * step / last)


def first_beta(spec: Optimiser, step: int, steps: int) -> float:
    """The first of the betas at a step: as it is given, but with one_cycle, from .95 to .85 while the rate rises and back."""
    if spec.schedule != "one_cycle":
        return spec.betas[0]
    return one_cycle(step, steps, spec.warmup if spec.warmup < 1 else spec.warmup / steps, 0.95, 0.85, 0.95)


def one_cycle(step: float, steps: int, rise: float, start: float, peak: float, end: float) -> float:
    """torch's `OneCycleLR`: from `start` to `peak` over a share `rise` of the run, then to `end`, each by half a cosine."""
    top, last = rise * steps - 1, steps - 1
    if step <= top:
        begin, finish, share = start, peak, step / top if top > 0 else 1.0
    else:
        begin, finish, share = peak, end, min(1.0, (step - top) / (last - top))
    return finish + (begin - finish) / 2 * (1 + math.cos(math.pi * share))


def schedule(optimiser: torch.optim.Optimizer, spec: Optimiser, step: int, steps: int) -> float:
    """Sets what step `step` of `steps` has: the rate, which is returned, weight decay that changes, and with one_cycle the first beta."""
    rate = learning_rate(spec, step, steps)
    for group in optimiser.param_groups:
        if group.get("constant"):
            group["lr"] = spec.lr * group["scale"]
            continue
        whole = round(steps * group["length"])
        own = rate if whole == steps else learning_rate(spec, step, whole)
        group["lr"] = rate_above_floor(spec, step, whole, group["scale"]) if spec.floor == "rate" else own * group["scale"]
    for group in optimiser.param_groups if spec.decay_drops or spec.final_decay is not None else ():
        if group["weight_decay"]:
            group["weight_decay"] = weight_decay(spec, step, steps)
    if spec.schedule == "one_cycle":
        for group in optimiser.param_groups:
            group["betas"] = (first_beta(spec, step, steps), *group["betas"][1:])
    return rate


def weight_decay(spec: Optimiser, step: int, steps: int) -> float:
    """Of the parameters that decay, at a step."""
    if spec.final_decay is not None:
        begin, end = spec.part
        progress = begin + (end - begin) * step / steps
        return spec.final_decay + (spec.weight_decay - spec.final_decay) * 0.5 * (1 + math.cos(math.pi * progress))
    return spec.weight_decay / float(10 ** sum(step + 1e-6 >= share * steps for share in spec.decay_drops))


def rate_above_floor(spec: Optimiser, step: int, steps: int, scale: float) -> float:
    """The rate of parameters whose own is `scale` times lr, above a floor of lr * final_lr that all parameters share."""
    down, level = (learning_rate(replace(spec, final_lr=final), step, steps) for final in (0.0, 1.0))
    if spec.schedule == "decay":
        return max(spec.final_lr * spec.lr, scale * down)
    return scale * down + spec.final_lr * (level - down)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Each group gets the rate times its own scale."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


ClipBy = Literal["norm", "largest", "parts"]


def clip(model: nn.Module, limit: float, by: ClipBy = "norm") -> float:
    """Global gradient norm before clipping, over all shards; scales gradients to `limit` when that is above 0 and exceeded.

    by  "largest": the norm is the largest absolute value; "parts": each child module is clipped by its own norm
    """
    parts = _gradients(model, by)
    norms = [float(_total_norm(grads, by)) for grads in parts]
    norm = math.hypot(*norms)
    require_finite(norm)
    for grads, own in zip(parts, norms, strict=True):
        if 0 < limit < own:
            torch._foreach_mul_(grads, limit / (own + 1e-6))
    return norm


def clip_on_device(model: nn.Module, limit: float, by: ClipBy = "norm") -> Tensor:
    """The same without a wait: the norm, [1], stays on the device, and who takes it checks later that it is finite (`late.LateNorm`)."""
    parts = _gradients(model, by)
    norms = [_total_norm(grads, by) for grads in parts]
    for grads, own in zip(parts, norms, strict=True):
        if limit > 0:
            torch._foreach_mul_(grads, (limit / (own + 1e-6)).clamp(max=1.0))
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).square().sum().sqrt()
    return norm.detach().reshape(1)


def _gradients(model: nn.Module, by: ClipBy) -> list[list[Tensor]]:
    """Gradients that are clipped together: all, or those of each child module."""
    parts: Iterable[Iterable[nn.Parameter]] = [model.parameters()]
    if by == "parts":
        parts = [model.parameters(recurse=False), *(child.parameters() for child in model.children())]
    grads = [[parameter.grad for parameter in part if parameter.grad is not None] for part in parts]
    return [part for part in grads if part] or [[]]


def _total_norm(grads: list[Tensor], by: ClipBy) -> Tensor:
    return full_tensor(torch.nn.utils.get_total_norm(grads, math.inf if by == "largest" else 2.0))


def parameters_without_gradient(model: nn.Module) -> list[str]:
    """Names of trainable parameters that the last backward pass did not reach."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def rule_of(name: str, rules: tuple[Rule, ...]) -> Rule | None:
    """The first rule whose pattern matches a parameter's name."""
    return next((rule for rule in rules if re.search(rule.pattern, name)), None)


def _fusable(groups: dict[tuple[float, bool, float, bool], list[nn.Parameter]], *devices: str) -> bool:
    """True where one kernel can update all parameters: they are of floats and on one of these kinds of devices."""
    return all(p.device.type in devices and p.is_floating_point() for parameters in groups.values() for p in parameters)


def state_by_name(model: nn.Module, memory: Mapping[Any, dict[str, Any]]) -> dict[str, tuple[torch.Size, dict[str, Any]]]:
    """Shape and optimiser state of every parameter, by name."""
    return {name: (p.shape, memory[p]) for name, p in model.named_parameters() if p in memory}


def optimiser_state(
    model: nn.Module, memory: Mapping[Any, Mapping[str, Any]], *, keep: bool = True, whole: bool = True
) -> dict[str, dict[str, Tensor | float | int]]:
    """Parameter name -> key -> value for everything that an optimiser remembers of the parameters, shards put together, in main memory.
    All processes have to ask together, and those that do not `keep` get nothing. Not `whole`: every process gets its shards as
    they are."""
    state: dict[str, dict[str, Tensor | float | int]] = {}
    for name, parameter in model.named_parameters():
        for key, value in memory.get(parameter, {}).items():
            if whole and isinstance(value, Tensor):
                value = full_tensor(value).detach().cpu() if keep else full_tensor(value)
            if keep:
                state.setdefault(name, {})[key] = value
    return state


def load_optimiser_state(
    optimiser: torch.optim.Optimizer | None, model: nn.Module, saved: Mapping[str, Mapping[str, Tensor | float | int]]
) -> None:
    """Takes back what `optimiser_state` gave, as parameter name -> key -> value; placed and cut as the parameters are."""
    if optimiser is None:
        return
    fused = optimiser.defaults.get("fused")
    for name, parameter in model.named_parameters():
        for key, value in saved.get(name, {}).items():
            if isinstance(value, Tensor) and key != "step":
                value = shard_like(value, parameter.detach())
            elif isinstance(value, Tensor) and fused:
                value = value.to(parameter.device)
            optimiser.state[parameter][key] = value
