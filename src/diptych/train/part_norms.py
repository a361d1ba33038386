"""Norms of gradients and updates by part of a model, for the log of a run (`--part-norms`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diptych.train.parallel import full_tensor

OWN = "own"
"""Name of the parameters that the model holds itself, such as its temperature."""


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by the direct children of a model; of one with a single child, by the children of that."""
    parts: dict[str, list[nn.Parameter]] = {}
    children = [(name, child) for name, child in model.named_children() if any(p.requires_grad for p in child.parameters())]
    own = [p for p in model.parameters(recurse=False) if p.requires_grad]
    if len(children) == 1 and not own:
        return parts_of(children[0][1]) or parts
    if own:
        parts[OWN] = own
    for name, child in children:
        parts[name] = [p for p in child.parameters() if p.requires_grad]
    return parts


class PartNorms:
    """Measures the steps whose lines are written to the log: gradients before clipping, and what the optimiser added to the weights.

    `values` holds `grad_norm/PART` and `update_norm/PART` of the last step that was measured, as tensors on the device of the model.
    """

    def __init__(self, active: bool, log_every: int) -> None:
        self.active, self.log_every = active, log_every
        self.values: Mapping[str, Tensor] = {}

    @contextmanager
    def measured(self, model: nn.Module, step: int, last: int) -> Iterator[None]:
        """Measure the update in this block, where step `step` of `last` has a line in the log; gradients are read at its begin."""
        self.values = {}
        if not self.active or (step % self.log_every and step != last):
            yield
            return
        parts = parts_of(model)
        norms = {f"grad_norm/{part}": _norm([p.grad for p in members if p.grad is not None]) for part, members in parts.items()}
        before = {part: [p.detach().clone() for p in members] for part, members in parts.items()}
        yield
        for part, members in parts.items():
            moved = [p.detach() - old for p, old in zip(members, before[part], strict=True)]
            norms[f"update_norm/{part}"] = _norm(moved)
        self.values = norms


def _norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean norm of all elements of several tensors; 0 of none."""
    return full_tensor(torch.nn.utils.get_total_norm(tensors)) if tensors else torch.zeros(())
