"""Frozen parts, layer-wise learning rates and heads first, as rules of the optimiser.

The rate of a parameter in layer i of n is layer_decay ** (n + 1 - i) of the whole: embeddings are layer 0, blocks 1 to n, and what
comes after them, like all that lies outside the towers, has the whole rate (BEiT, 2106.08254; timm's
`param_groups_layer_decay` counts the last norm with the last block). Each tower counts its own layers.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from diptych.core.contracts import Optimiser, Rule, Tuning
from diptych.core.errors import ConfigError, UnknownName
from diptych.models.towers.adapters import tower_names
from diptych.train.optimise import rule_of

BLOCK = re.compile(r"(?:^|\.)(?:blocks?|layers?|resblocks|stages)\.(\d+)\.")
"""Where the names of our towers, of timm's and of transformers' count their layers."""


def tuned_optimiser(spec: Optimiser, model: nn.Module, tuning: Tuning, *, head_only: bool = False) -> Optimiser:
    """The optimiser with a rule for every parameter that tuning treats differently; `spec` itself if there are none.

    head_only  of the steps in which the heads are trained alone
    Raises UnknownName for a pattern that no parameter answers, ConfigError for layers that cannot be counted.
    """
    if not (tuning.freeze or tuning.layer_decay < 1 or head_only):
        return spec
    names = [name for name, _ in model.named_parameters()]
    for pattern in tuning.freeze:
        _check_pattern(pattern, names, "--freeze")
    scales = dict.fromkeys(names, 1.0) if tuning.layer_decay == 1 else layer_scales(model, tuning.layer_decay)
    heads = head_names(model, tuning.head) if head_only else set(names)
    rules = []
    for name in names:
        own = rule_of(name, spec.rules) or Rule("")
        frozen = name not in heads or any(re.search(pattern, name) for pattern in tuning.freeze)
        scale, counted = (0.0, False) if frozen else (own.lr_scale * scales[name], own.counted)
        rules.append(replace(own, pattern=f"^{re.escape(name)}$", lr_scale=scale, counted=counted))
    return replace(spec, rules=(*rules, *spec.rules))


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """The factor of every parameter's learning rate, by name."""
    names = [name for name, _ in model.named_parameters()]
    scales = dict.fromkeys(names, 1.0)
    towers = tower_names(model) or [""]
    for tower in towers:
        prefix = f"{tower}." if tower else ""
        inside = [name for name in names if name.startswith(prefix)]
        layer_of = {name: int(match[1]) for name in inside if (match := BLOCK.search(name.removeprefix(prefix)))}
        if not layer_of:
            part = tower or type(model).__name__
            raise ConfigError(f"--layer-decay: the names of {part} count no layers (expected blocks.0, layers.0, ...)")
        last = max(layer_of.values())
        first_seen = min(inside.index(name) for name in layer_of)
        for index, name in enumerate(inside):
            layer = layer_of.get(name, -1 if index < first_seen else last + 1)
            scales[name] = decay ** (last + 1 - layer)
    return scales


def head_names(model: nn.Module, pattern: str) -> set[str]:
    """Names of the parameters of the heads: those that the pattern finds, or all outside the towers."""
    names = [name for name, _ in model.named_parameters()]
    if pattern:
        _check_pattern(pattern, names, "--head")
        return {name for name in names if re.search(pattern, name)}
    towers = tuple(f"{name}." for name in tower_names(model))
    heads = {name for name in names if not name.startswith(towers)} if towers else set()
    if not heads:
        raise ConfigError(f"--head-first: {type(model).__name__} has nothing outside its towers (expected --head PATTERN)")
    return heads


def freeze_batch_norm(model: nn.Module, tuning: Tuning) -> None:
    """Where a run is tuned, batch norms that are not trained use the statistics that they have, and leave them as they are."""
    for module in model.modules() if tuning != Tuning() else ():
        if isinstance(module, _BatchNorm) and module.weight is not None and not module.weight.requires_grad:
            module.eval()


def _check_pattern(pattern: str, names: list[str], option: str) -> None:
    try:
        matches = any(re.search(pattern, name) for name in names)
    except re.error as error:
        raise ConfigError(f"{option} {pattern!r} is not a pattern of names ({error})") from error
    if not matches:
        raise UnknownName(f"parameter for {option}", pattern, sorted({name.rpartition(".")[0] or name for name in names}))
