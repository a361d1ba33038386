"""Gradient caching: the gradient of a large batch with the memory of a chunk, for any recipe.

`features` is computed twice and `losses` once. Pass 1 runs the chunks without a graph and remembers the random state before
each. The chunks' tensors become leaves, are joined to the features of the batch, and the losses are taken and differentiated
once: every leaf now holds its exact gradient. Pass 2 runs each chunk again under its random state, with a graph, and sends the
leaf's gradient into it. Costs one more forward pass (Gao et al. 2021, 2101.06983).

What is equal to what: the gradients are those of running the chunks one after the other with a graph, joining them, and one
backward pass through everything; also with dropout, whose masks are drawn in the order of the chunks. Without dropout that is
the gradient of the undivided batch. Batch norm is the exception: it normalises within a chunk (its running averages move once).

What goes wrong elsewhere: a field that all chunks share (a temperature, label embeddings) must get its gradient once and not
once a chunk; in data parallelism only the last backward pass may average gradients, and it has to reach every parameter. So
pass 2 runs backwards and ends with the first chunk, which owns the shared fields.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Batch, Recipe, StepOutput
from diptych.core.errors import ConfigError, RunError
from diptych.core.rows import is_record, row_fields
from diptych.train.devices.flops import uncounted
from diptych.train.precision import Autocast

Visit = Callable[[Tensor], Tensor]
ExtraLoss = Callable[[Any, Batch], Mapping[str, Tensor]]
"""Losses beside those of the recipe, of the features of the whole batch."""


def backward(
    recipe: Recipe,
    model: nn.Module,
    batch: Batch,
    *,
    micro_batch: int = 0,
    autocast: Autocast = nullcontext,
    unsynced: Callable[[], AbstractContextManager[object]] = nullcontext,
    further: ExtraLoss | None = None,
) -> StepOutput:
    """Adds the gradient of the sum of the recipe's losses to every parameter's `grad`.

    micro_batch  rows that go through the model at once; 0, or at least the batch, runs it undivided
    autocast     opens a region for one call of `features`; losses are taken outside, on features of at least float32
    unsynced     a region whose backward passes do not average gradients over processes
    further      losses that are added to the recipe's own
    """
    if not 0 < micro_batch < len(batch):
        with autocast():
            features = to_float32(recipe.features(model, batch))
        losses = _losses(recipe, features, batch, further)
        _total(losses).backward()
        return StepOutput({name: value.detach() for name, value in losses.items()}, map_tensors(features, Tensor.detach), batch)
    if not recipe.cacheable:
        raise ConfigError(
            f"micro_batch is {micro_batch}, but the features of {type(recipe).__name__} need the whole batch (expected 0)"
        )
    return _in_chunks(recipe, model, batch, micro_batch, autocast, unsynced, further)


def _losses(recipe: Recipe, features: Any, batch: Batch, further: ExtraLoss | None) -> dict[str, Tensor]:
    losses = recipe.losses(features, batch)
    return losses | dict(further(features, batch)) if further else losses


@torch.no_grad()
def features_without_grad(
    recipe: Recipe, model: nn.Module, batch: Batch, *, micro_batch: int = 0, autocast: Autocast = nullcontext
) -> Any:
    """The features of a batch without gradient, in chunks as `backward` takes them."""
    size = micro_batch if recipe.cacheable and micro_batch else len(batch)
    parts = []
    for chunk in _chunks(batch, size):
        with autocast():
            parts.append(to_float32(recipe.features(model, chunk)))
    return join(parts) if len(parts) > 1 else parts[0]


def _chunks(batch: Batch, size: int) -> list[Batch]:
    return [batch.rows(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]


def _in_chunks(
    recipe: Recipe,
    model: nn.Module,
    batch: Batch,
    size: int,
    autocast: Autocast,
    unsynced: Callable[[], AbstractContextManager[object]],
    further: ExtraLoss | None,
) -> StepOutput:
    chunks = _chunks(batch, size)
    random_states, leaves = [], []
    for chunk in chunks:
        random_states.append(_random_state())
        with torch.no_grad(), uncounted(), autocast():
            leaves.append(map_tensors(to_float32(recipe.features(model, chunk)), _leaf))
    losses = _losses(recipe, features := join(leaves), batch, further)
    _total(losses).backward()

    after_losses = _random_state()
    with _freeze_statistics(model):
        for index in reversed(range(len(chunks))):
            grads = [leaf.grad for leaf in tensors(leaves[index])]
            if all(grad is None for grad in grads):
                continue
            _restore(random_states[index])
            with unsynced() if index else nullcontext():
                with autocast():
                    again = tensors(to_float32(recipe.features(model, chunks[index])))
                pairs = [(a, g) for a, g in zip(again, grads, strict=True) if g is not None and a.requires_grad]
                if pairs:
                    torch.autograd.backward([a for a, _ in pairs], [g for _, g in pairs])
    _restore(after_losses)
    return StepOutput({name: value.detach() for name, value in losses.items()}, map_tensors(features, Tensor.detach), batch)


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    if not losses:
        raise RunError("the recipe returned no losses")
    for name, value in losses.items():
        if value.numel() != 1:
            raise RunError(f"loss '{name}' has shape {list(value.shape)} (expected a scalar)")
    total = functools.reduce(torch.add, [value.reshape(()) for value in losses.values()])
    if not total.requires_grad:
        raise RunError("no loss depends on a parameter that is trained: every one of them is frozen or detached")
    return total


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def to_float32(features: Any) -> Any:
    """Half-precision tensors as float32; the others as they are."""
    return map_tensors(features, lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t)


# ---------------------------------------------------------------- features: trees of dataclasses, mappings and sequences


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of the tree, in a fixed order."""
    leaves: list[Tensor] = []
    map_tensors(value, lambda t: leaves.append(t) or t)  # type: ignore[func-returns-value]
    return leaves


def map_tensors(value: Any, visit: Visit) -> Any:
    """The same tree with every tensor replaced by the result of `visit`."""
    return visit(value) if isinstance(value, Tensor) else _rebuild([value], lambda parts: map_tensors(parts[0], visit))


def join(parts: list[Any]) -> Any:
    """The features of a batch from those of its chunks: fields that are declared `Rows` one after the other, records (also in
    mappings and sequences) field by field, everything else from the first chunk."""
    first = parts[0]
    if not is_record(first):
        return first if isinstance(first, Tensor) else _rebuild(parts, join)
    rows = row_fields(type(first))
    named = {f.name: [getattr(part, f.name) for part in parts] for f in dataclasses.fields(first) if f.init}
    return dataclasses.replace(
        first, **{name: (_stack_parts if name in rows else join)(values) for name, values in named.items()}
    )


def _stack_parts(parts: list[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return None if parts[0] is None else type(parts[0])(item for part in parts for item in part)


def _rebuild(parts: list[Any], merge: Callable[[list[Any]], Any]) -> Any:
    """Merge several trees of equal structure into one; `merge` gets the children at equal positions."""
    first = parts[0]
    if is_record(first):
        names = [f.name for f in dataclasses.fields(first) if f.init]
        return dataclasses.replace(first, **{name: merge([getattr(part, name) for part in parts]) for name in names})
    if isinstance(first, Mapping):
        return {key: merge([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        children = [merge(list(group)) for group in zip(*parts, strict=True)]
        return type(first)(*children) if hasattr(first, "_fields") else type(first)(children)
    return first


# ---------------------------------------------------------------- what must not happen twice


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


@contextmanager
def _freeze_statistics(model: nn.Module) -> Iterator[None]:
    """Keep running averages of batch norm fixed: pass 1 has updated them already."""
    moving = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.track_running_stats
    ]
    for module in moving:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in moving:
            module.track_running_stats = True
