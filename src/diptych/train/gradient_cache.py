"""The gradient of a whole batch with the memory of a chunk, for any recipe.

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
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError, RunError
from diptych.train.precision import Autocast

Visit = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one backward pass leaves behind: the loss terms and the features of the process's whole batch, all detached."""

    losses: dict[str, Tensor]
    features: Any


def backward(
    recipe: Recipe,
    model: nn.Module,
    batch: Any,
    *,
    micro_batch: int = 0,
    autocast: Autocast = nullcontext,
    unsynced: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Outcome:
    """Adds the gradient of the sum of the recipe's losses to every parameter's `grad`.

    micro_batch  rows that go through the model at once; 0, or at least the batch, runs it undivided
    autocast     opens a region for one call of `features`; losses are taken outside, on features of at least float32
    unsynced     a region whose backward passes do not average gradients over processes
    """
    if not 0 < micro_batch < len(batch):
        with autocast():
            features = widen(recipe.features(model, batch))
        losses = recipe.losses(features, batch)
        _total(losses).backward()
        return Outcome({name: value.detach() for name, value in losses.items()}, map_tensors(features, Tensor.detach))
    if not recipe.cacheable:
        raise ConfigError(
            f"micro_batch is {micro_batch}, but the features of {type(recipe).__name__} need the whole batch (expected 0)"
        )
    return _in_chunks(recipe, model, batch, micro_batch, autocast, unsynced)


def _in_chunks(
    recipe: Recipe,
    model: nn.Module,
    batch: Any,
    size: int,
    autocast: Autocast,
    unsynced: Callable[[], AbstractContextManager[object]],
) -> Outcome:
    chunks = [batch.rows(start, min(start + size, len(batch))) for start in range(0, len(batch), size)]
    random_states, leaves = [], []
    for chunk in chunks:
        random_states.append(_random_state())
        with torch.no_grad(), autocast():
            leaves.append(map_tensors(widen(recipe.features(model, chunk)), _leaf))
    losses = recipe.losses(features := join(leaves), batch)
    _total(losses).backward()

    after_losses = _random_state()
    with _frozen_statistics(model):
        for index in reversed(range(len(chunks))):
            grads = [leaf.grad for leaf in tensors(leaves[index])]
            if all(grad is None for grad in grads):
                continue
            _restore(random_states[index])
            with unsynced() if index else nullcontext():
                with autocast():
                    again = tensors(widen(recipe.features(model, chunks[index])))
                pairs = [(a, g) for a, g in zip(again, grads, strict=True) if g is not None and a.requires_grad]
                if pairs:
                    torch.autograd.backward([a for a, _ in pairs], [g for _, g in pairs])
    _restore(after_losses)
    return Outcome({name: value.detach() for name, value in losses.items()}, map_tensors(features, Tensor.detach))


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


def widen(features: Any) -> Any:
    """Half-precision tensors as float32; the others as they are."""
    return map_tensors(features, lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t)


# ---------------------------------------------------------------- features: trees of dataclasses, mappings and sequences


def is_row_field(name: str) -> bool:
    """Whether a field is cut with the batch: its name ends in a shape whose first letter is B or N.

    >>> is_row_field("image_ND"), is_row_field("label_KD"), is_row_field("scale")
    (True, False, False)
    """
    return re.search(r"_[BN][A-Z0-9]*$", name) is not None


def tensors(value: Any) -> list[Tensor]:
    """Every tensor of the tree, in a fixed order."""
    found: list[Tensor] = []
    map_tensors(value, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def map_tensors(value: Any, visit: Visit) -> Any:
    """The same tree with every tensor replaced by what `visit` makes of it."""
    if isinstance(value, Tensor):
        return visit(value)
    return _rebuild([value], "", lambda parts, _: map_tensors(parts[0], visit))


def join(parts: list[Any], name: str = "") -> Any:
    """The features of a batch from those of its chunks: row fields one after the other, the others from the first chunk.

    A bare tensor, or a bare tuple of tensors, holds rows.
    """
    if isinstance(parts[0], Tensor):
        return torch.cat(parts) if not name or is_row_field(name) else parts[0]
    if isinstance(parts[0], tuple | list) and not hasattr(parts[0], "_fields") and is_row_field(name):
        return type(parts[0])(item for part in parts for item in part)
    return _rebuild(parts, name, join)


def _rebuild(parts: list[Any], name: str, merge: Callable[[list[Any], str], Any]) -> Any:
    """One tree from several of equal shape; `merge` sees the children of equal place and the name of their field."""
    first = parts[0]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in dataclasses.fields(first) if f.init]
        return dataclasses.replace(first, **{key: merge([getattr(p, key) for p in parts], key) for key in names})
    if isinstance(first, Mapping):
        return {key: merge([p[key] for p in parts], key) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(merge([getattr(p, key) for p in parts], key) for key in first._fields))
    if isinstance(first, tuple | list):
        return type(first)(merge(list(group), name) for group in zip(*parts, strict=True))
    return first


# ---------------------------------------------------------------- what must not happen twice


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Running averages of batch norm stand still: pass 1 has moved them already."""
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
