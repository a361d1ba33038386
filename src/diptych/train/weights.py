"""Copying of tensors: from a checkpoint into a module, between modules, and of optimiser moments into larger ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diptych.core.contracts import Hook, Recipe
from diptych.core.errors import ConfigError, RunError
from diptych.models.io.open_address import open_address
from diptych.train.parallel import full_tensor, shard_like

LEAST = 0.05
"""The share of the numbers, of the model's or of the start's, whichever are fewer, below which a start is a mistake: two models that have
nothing in common but a scale."""


def zero_pad(value: Any, parameter: Tensor) -> Any:
    """A moment with zeros at the end of every axis that grew; counts of steps as they are."""
    if not isinstance(value, Tensor) or value.ndim != parameter.ndim:
        return value
    wider = torch.zeros_like(parameter)
    wider[tuple(slice(size) for size in value.shape)] = value
    return wider


@torch.no_grad()
def load_weights(model: nn.Module, saved: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Copies saved tensors into the model; names and shapes have to agree, but for those that the recipe does not store. A module whose
    buffers change their length says so by `resize_` (`layers/sparse_queue.py`) and makes room first."""
    for prefix, module in model.named_modules():
        if callable(resize := getattr(module, "resize_", None)):
            resize({name: saved[f"{prefix}.{name}"].shape for name, _ in module.named_buffers() if f"{prefix}.{name}" in saved})
    own = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    missing = [name for name in own if name not in saved and recipe.stored(name)]
    if missing or (unknown := [name for name in saved if name not in own]):
        what = f"lacks '{missing[0]}'" if missing else f"has '{unknown[0]}', which the model has not"
        raise RunError(
            f"the checkpoint does not fit the model of {type(recipe).__name__}: it {what} "
            "(expected one of this version; a finished run of another starts a new one by --init RUN)"
        )
    for name, tensor in saved.items():
        if tensor.shape != own[name].shape:
            raise RunError(f"'{name}' is {list(tensor.shape)} in the checkpoint and {list(own[name].shape)} in the model")
        own[name].copy_(shard_like(tensor, own[name]))


@torch.no_grad()
def copy_matching(before: nn.Module, after: nn.Module) -> None:
    """Copies the tensors whose name and shape are the same in both."""
    copy_matching_tensors(before.state_dict(), after)


@torch.no_grad()
def copy_matching_tensors(tensors: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Copies every tensor that the model has under the same name and in the same shape; gives the names of those that it copied.

    Tensors of a model that is saved alone reach it also where another model holds it, as `encoder`: weights of `clip` start `alip`.
    """
    taken = []
    for name, own in model.state_dict().items():
        given = tensors.get(name, tensors.get(name.removeprefix("encoder.")))
        if isinstance(own, Tensor) and isinstance(given, Tensor) and given.shape == own.shape:
            own.copy_(given)
            taken.append(name)
    return taken


def stored_tensors(model: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """The tensors that belong in a checkpoint, as this process has them: sharded ones as shards."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor) and recipe.stored(name)}


def whole_tensors(model: nn.Module, recipe: Recipe, *, keep: bool = True) -> dict[str, Tensor]:
    """The tensors that belong in a checkpoint, shards put together, in main memory. All processes have to ask together, and those that
    do not `keep` get none."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored_tensors(model, recipe).items():
        value = full_tensor(tensor)
        if keep:
            tensors[name] = value.detach().cpu()
    return tensors


def whole_copy(model: nn.Module, recipe: Recipe, hooks: Iterable[Hook], device: torch.device) -> nn.Module:
    """A module like a sharded one, with whole tensors; in double precision where that one is."""
    state = {name: full_tensor(value) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    with torch.random.fork_rng():
        copied: nn.Module = recipe.model()
    for hook in hooks:
        copied = hook.reshape(copied)
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    copied = copied.to(device, torch.float64 if kinds == {torch.float64} else None)
    load_weights(copied, state, recipe)
    return copied


def start_tensors(init: str, *, download: bool = False) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of the model at an address: those of its module, under the names that ours have."""
    if init.endswith(".safetensors") and ":" not in init:
        return load_file(init)
    return given_tensors(open_address(init, download=download))


def given_tensors(opened: Any) -> dict[str, Tensor]:
    """Tensors of an opened model that its weights gave, without those that it had to draw (`PairEmbedder.fresh`)."""
    drawn: tuple[str, ...] = getattr(opened, "fresh", ())
    return {name: tensor for name, tensor in opened.model.state_dict().items() if not name.startswith(drawn)}


def start_lines(tensors: Mapping[str, Any], model: nn.Module, init: str, left: Collection[str] = ()) -> list[str]:
    """Report lines on initialisation from weights: tensors taken, fresh, resized and not used; one line each.

    Raises ConfigError when that is next to nothing (`LEAST`), or nothing.
    """
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    plain = {name: name if name in tensors else name.removeprefix("encoder.") for name in own}
    taken = {plain[name] for name, shape in own.items() if plain[name] in tensors and tensors[plain[name]].shape == shape}
    fresh = [name for name in own if plain[name] not in taken]
    resized = [name for name in fresh if plain[name] in tensors]
    unused = [*(name for name in tensors if name not in taken and name not in {plain[name] for name in resized}), *left]
    lines = [f"{len(own) - len(fresh)} of {len(own)} tensors start from {init}"]
    if resized:
        first = resized[0]
        lines.append(
            f"fresh, since their shape is another: {_count_by_part(resized)} "
            f"(such as {first}: {list(own[first])} here, {list(tensors[plain[first]].shape)} there)"
        )
    lines += [f"fresh: {_count_by_part(rest)}"] if (rest := [name for name in fresh if name not in set(resized)]) else []
    lines += [f"not used: {_count_by_part(unused)}"] if unused else []
    numbers = sum(shape.numel() for name, shape in own.items() if plain[name] in taken)
    given = sum(tensor.numel() for tensor in tensors.values() if isinstance(tensor, Tensor))
    if numbers < LEAST * min(given, sum(shape.numel() for shape in own.values())) or not taken:
        why = "; ".join(lines[1:])
        raise ConfigError(
            f"{init} has next to nothing for this model ({type(model).__name__}): {lines[0]}; {why} "
            "(expected weights of the same architecture; leave out --init to start afresh)"
        )
    return lines


def _count_by_part(names: Iterable[str]) -> str:
    """Names by their first two parts, with how many there are of each."""
    counts = Counter(".".join(name.removeprefix("encoder.").split(".")[:2]) for name in names)
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in counts.items())
