"""Low-rank adapters (LoRA; Hu et al., 2021, 2106.09685) on any module, through `peft`.

    y = W x + (alpha / r) B A x        W frozen, A random, B zero: no change at the start

`random` names modules whose A [r, D] and B [E, r] are both Xavier-uniform,
as in the adapted attention of SVLC's and SyViC's release (loralib's layers of queries, keys and values); other modules are as
above. `kernel` names convolutions with loralib's adapter, not `peft`'s (`kernel_adapter`): that of the patch embedding.

What implementations get wrong: a module whose weight is used directly without calling it,
so that its adapter has no effect (the run refuses it when no gradient arrives); frozen teachers inside the model whose parameter
names no longer match (here they get adapters, too, without gradient);
batch norms of a frozen tower whose statistics still change.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import nn

from diptych.core.errors import ConfigError, MissingExtra
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.towers.kernel_adapter import KernelAdapter
from diptych.models.towers.outputs import Tower

KINDS = (nn.Linear, nn.Conv2d, nn.Embedding)
"""Module types that can have an adapter. Only exactly these, since a subclass may compute something else."""
MARK = ".lora_"
"""Substring of the name of every adapter parameter."""
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class LoRAConfig:
    """rank of the adapters, patterns of the modules that get one (`re.search` in their names; none: see `targets`), the factor
    alpha (0: the rank), dropout before them, a pattern of those that start random in both maps ("": none), and one of convolutions whose
    adapter is laid out as loralib's ("": none), which has no dropout.
    """

    rank: int
    patterns: tuple[str, ...] = ()
    alpha: float = 0.0
    dropout: float = 0.0
    random: str = ""
    kernel: str = ""

    @classmethod
    def parse(cls, words: str, *, alpha: float = 0.0, dropout: float = 0.0, random: str = "", kernel: str = "") -> Self:
        """
        >>> LoRAConfig.parse("4:qkv,mlp_in").patterns
        ('qkv', 'mlp_in')
        """
        rank, _, names = words.partition(":")
        patterns = tuple(name.strip() for name in names.split(",") if name.strip())
        if not rank.strip().isdigit() or int(rank) < 1 or (":" in words and not patterns):
            raise ConfigError(f"lora is {words!r} (expected a rank, such as 16, or a rank and modules, such as 16:qkv,mlp_in)")
        for pattern in (*patterns, random, kernel):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"lora {words!r}: {pattern!r} is not a pattern of names ({error})") from error
        return cls(int(rank), patterns, alpha, dropout, random, kernel)


def add_adapters(model: nn.Module, lora: LoRAConfig, *, bare: Collection[str] = ()) -> list[str]:
    """Add an adapter to every module selected by `lora` and freeze all other parameters. Returns the names of the modules.

    bare  parameters whose modules get no adapter, since they are always frozen or trained in full; a tower without any adapter is
          refused unless all of it is bare
    Copies of the model inside it (`FrozenModules`) get the adapters of their source, without gradient.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtra("peft", "adapters", needed_for="--lora") from error
    names = targets(model, lora, bare=bare)
    kernels = _kernels(model, names, lora)
    random = [name for name in names if lora.random and re.search(lora.random, name) and not _is_table(model, name)]
    random = [name for name in random if name not in kernels]
    if lora.random and not random:
        choices = ", ".join(
            sorted({name.rpartition(".")[2] for name in names if name not in kernels and not _is_table(model, name)})
        )
        raise ConfigError(f"--lora-random: no map or convolution with an adapter has {lora.random!r} (expected of {choices})")
    by_peft = [name for name in names if name not in kernels]
    if not by_peft:
        raise ConfigError(
            f"--lora-kernel: {lora.kernel!r} leaves no adapter of another kind (expected some, as peft stores them)"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or lora.rank,
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, [*by_peft, *_in_companions(model, by_peft)])),
        bias="none",
    )
    inject_adapter_in_model(config, model)
    for name in [*kernels, *_in_companions(model, kernels)]:
        convolution = model.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        model.set_submodule(name, KernelAdapter(convolution, lora.rank, lora.alpha or lora.rank))
    for attribute in ("peft_config", "active_adapter"):
        if attribute in vars(model):
            delattr(model, attribute)
    for name in random:
        for maps in ("lora_A", "lora_B"):
            nn.init.xavier_uniform_(model.get_submodule(f"{name}.{maps}.default").get_parameter("weight"))
    _settle_companions(model)
    return names


def _kernels(model: nn.Module, names: Collection[str], lora: LoRAConfig) -> list[str]:
    """Return those of these modules that are convolutions with loralib's adapter."""
    convolutions = [name for name in names if isinstance(model.get_submodule(name), nn.Conv2d)]
    matching = [name for name in convolutions if lora.kernel and re.search(lora.kernel, name)]
    if lora.kernel and not matching:
        choices = ", ".join(sorted({name.rpartition(".")[2] for name in convolutions})) or "none"
        raise ConfigError(f"--lora-kernel: no convolution with an adapter has {lora.kernel!r} (expected of {choices})")
    return matching


def _is_table(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Embedding)


def targets(model: nn.Module, lora: LoRAConfig, *, bare: Collection[str] = ()) -> list[str]:
    """Return full names of the modules that get an adapter. Raises ConfigError for a pattern without a match,
    and for a tower without any.

    Without patterns: the linear layers of each tower, its convolutions if it has several (a single one is the patch embedding),
    and projections into the joint space; in a model without towers, every linear layer.
    """
    left_out = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, FrozenModules))
    able = {
        name: module
        for name, module in model.named_modules()
        if name and type(module) in KINDS and not name.startswith(left_out) and not _within_attention(model, name)
    }
    towers = dict(_towers(model))
    if lora.patterns:
        names = {name for name in able if any(re.search(pattern, name) for pattern in lora.patterns)}
        for pattern in lora.patterns:
            if not any(re.search(pattern, name) for name in able):
                kinds = sorted({name.rpartition(".")[2] for name in able if not name.rpartition(".")[2].isdigit()})
                raise ConfigError(f"--lora: no module's name has {pattern!r} (expected of {', '.join(kinds)})")
    else:
        names = {name for name, module in able.items() if _is_default(name, module, towers)}
    names = {name for name in names if f"{name}.weight" not in bare}
    for name, tower in towers.items():
        here = any(target.startswith(f"{name}.") for target in names)
        if not here and not all(f"{name}.{inner}" in bare for inner, p in tower.named_parameters() if p.requires_grad):
            own = sorted({t.removeprefix(f"{name}.").rpartition(".")[2] for t in able if t.startswith(f"{name}.")})
            raise ConfigError(
                f"--lora: {name} ({type(tower).__name__}) has no such module "
                f"(expected of {', '.join(own) or 'none: it has no linear map and no convolution'}; or freeze it by --freeze {name})"
            )
    if not names:
        raise ConfigError(f"--lora: {type(model).__name__} has no linear map and no convolution")
    return sorted(names)


def _is_default(name: str, module: nn.Module, towers: dict[str, nn.Module]) -> bool:
    tower = next((inner for prefix, inner in towers.items() if name.startswith(f"{prefix}.")), None)
    if isinstance(module, nn.Linear):
        return tower is not None or not towers or name.rpartition(".")[2].endswith("_projection")
    convolutions = 0 if tower is None else sum(type(inner) is nn.Conv2d for inner in tower.modules())
    return isinstance(module, nn.Conv2d) and module.groups == 1 and convolutions > 1


def _towers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return every tower by its name, except those of companions; of nested towers only the outer one."""
    within: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, FrozenModules):
            within.append(f"{name}.")
        elif name and isinstance(module, Tower) and not name.startswith(tuple(within)):
            within.append(f"{name}.")
            yield name, module


def tower_names(model: nn.Module) -> list[str]:
    """Return the names of a model's towers, for callers that treat heads separately."""
    return [name for name, _ in _towers(model)]


def _in_companions(model: nn.Module, names: Collection[str]) -> list[str]:
    """Return the same modules inside copies of the model, or of the part that contains them."""
    modules = []
    for prefix, module in model.named_modules():
        if isinstance(module, FrozenModules):
            for inner, _ in module.named_modules():
                relative = inner.partition(".")[2]
                if relative and any(name == relative or name.endswith(f".{relative}") for name in names):
                    modules.append(f"{prefix}.{inner}")
    return modules


def _within_attention(model: nn.Module, name: str) -> bool:
    """Return True for the output layer of torch's attention, whose weight is used directly without calling it."""
    parent = name.rpartition(".")[0]
    return bool(parent) and isinstance(model.get_submodule(parent), nn.MultiheadAttention)


def _settle_companions(model: nn.Module) -> None:
    """Copy the adapters of each source to its copy, without gradient."""
    companions = [(name, module) for name, module in model.named_modules() if isinstance(module, FrozenModules)]
    inside = tuple(f"{name}." for name, _ in companions)
    own = {name: p for name, p in model.named_parameters() if MARK in name and not name.startswith(inside)}
    for _, module in companions:
        module.requires_grad_(False)
        for name, parameter in module.named_parameters():
            relative = name.partition(".")[2]
            source = own.get(relative, next((p for key, p in own.items() if key.endswith(f".{relative}")), None))
            if MARK in name and source is not None:
                with torch.no_grad():
                    parameter.copy_(source)


def has_adapters(model: nn.Module) -> bool:
    """Return True if any parameter of a module belongs to a low-rank adapter."""
    return any(MARK in name for name, _ in model.named_parameters())


def merged(model: M) -> M:
    """Return a copy with adapters merged into the weights; a model without adapters is returned itself."""
    if not has_adapters(model):
        return model
    copied = copy.deepcopy(model)
    merge_(copied)
    return copied


def merge_(model: nn.Module) -> None:
    """Merge every adapter into its weight, in place, and remove it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
        elif isinstance(module, KernelAdapter):
            model.set_submodule(name, module.merge())
