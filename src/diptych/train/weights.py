"""Copying tensors: from a checkpoint into a module, from one module into another, from a moment into a larger one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Recipe
from diptych.core.errors import RunError
from diptych.train.parallel import like


def padded(value: Any, parameter: Tensor) -> Any:
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
        own[name].copy_(like(tensor, own[name]))


@torch.no_grad()
def carry_equal(before: nn.Module, after: nn.Module) -> None:
    """Copies the tensors whose name and shape are the same in both."""
    copy_equal(before.state_dict(), after)


@torch.no_grad()
def copy_equal(tensors: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Copies every tensor that the model has under the same name and in the same shape; names those.

    Tensors of a model that is saved alone reach it also where another model holds it, as `encoder`: weights of `clip` start `alip`.
    """
    taken: list[str] = []
    for name, own in model.state_dict().items():
        given = tensors.get(name, tensors.get(name.removeprefix("encoder.")))
        if isinstance(own, Tensor) and isinstance(given, Tensor) and given.shape == own.shape:
            own.copy_(given)
            taken.append(name)
    return taken
