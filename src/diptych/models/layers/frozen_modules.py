"""Copies of a model that follow it without gradient: momentum teachers, frozen references, and mixtures of both.

A copy is taken of everything that the source holds at that moment, heads and projections included: an average of the towers under a
head that is trained on gives targets that move twice. Copies live inside the training module, so they are in every checkpoint, and
what is deployed leaves them behind. They are always in evaluation mode: a teacher with dropout is a different teacher every time.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError


class FrozenModules(nn.ModuleDict):
    """Named modules that are frozen and in evaluation mode for good. `forward` is the caller's: `companions["teacher"](...)`.

        Companions(model, "teacher", "reference")     two copies of the model as it is now
        Companions(teacher=other)                     another module, itself and not a copy: it is frozen in place
        Companions().add_("teacher", model)           a copy when it is wanted, say after weights were loaded

    Attach copies to their source after everything that they should hold is in place.
    """

    def __init__(self, source: nn.Module | None = None, *names: str, **given: nn.Module) -> None:
        super().__init__()
        if (names and source is None) or set(names) & set(given):
            raise ConfigError(f"companions {[*names, *given]} need one origin each: a source to copy, or a module that is given")
        for name in names:
            assert source is not None
            self.add_(name, source)
        for name, module in given.items():
            self[name] = module.requires_grad_(False)
        self.train(False)

    def add_(self, name: str, source: nn.Module) -> FrozenModules:
        """A copy of the source as it is now under this name, in place of one that was there."""
        self[name] = copy.deepcopy(source).requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> FrozenModules:
        """Stays in evaluation mode whatever mode the source is in."""
        super().train(False)
        return self

    def copy_(self, name: str, source: nn.Module) -> None:
        """The companion becomes the source as it is now."""
        mix_(self[name], 0.0, (1.0, source))

    def average_(self, name: str, source: nn.Module, momentum: float) -> None:
        """Exponential moving average: companion <- momentum * companion + (1 - momentum) * source. Momentum 1 freezes."""
        mix_(self[name], momentum, (1.0 - momentum, source))


@torch.no_grad()
def mix_(target: nn.Module, own: float, *others: tuple[float, nn.Module]) -> None:
    """target <- own * target + sum of weight * other, for every parameter and floating buffer of `target`, by name.

    Weights must be at least 0 and sum to 1. Others may hold more tensors than the target. Integer buffers (counters) are copied from
    the first of the others, but with own = 1, when nothing changes at all. Raises ConfigError.
    """
    weights = [own, *(weight for weight, _ in others)]
    if min(weights) < 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ConfigError(f"weights of a mixture are {weights} (expected 0 or more, with the sum 1)")
    if own == 1.0:
        return
    mine = _tensors(target)
    given = [(weight, _tensors(other)) for weight, other in others]
    for _, tensors in given:
        if missing := [name for name, tensor in mine.items() if name not in tensors or tensors[name].shape != tensor.shape]:
            raise ConfigError(f"a mixture needs equal models: '{missing[0]}' is missing or of another shape in one of them")
    floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    for name in mine.keys() - set(floating):
        mine[name].copy_(given[0][1][name])
    if not floating:
        return
    targets = [mine[name] for name in floating]
    if own == 0.0:  # zero times a value that is not finite would stay
        torch._foreach_zero_(targets)
    else:
        torch._foreach_mul_(targets, own)
    for weight, tensors in given:
        if weight:
            torch._foreach_add_(targets, [tensors[name] for name in floating], alpha=weight)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
