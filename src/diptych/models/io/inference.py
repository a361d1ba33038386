"""Running a module without training it: in evaluation mode, a part of the inputs at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from diptych.core.progress import shown

MANY = 8
"""So many parts take long enough for a bar."""
T = TypeVar("T")


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of the items, `size` each, the last may be shorter; many of them with a bar where a person is watching."""
    starts = range(0, len(items), size)
    for start in shown(starts, len(starts), f"{len(items):,} through the model", least=MANY):
        yield items[start : start + size]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each submodule is back in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
