"""Gradient-free copies of a model: momentum teachers, frozen references, and mixtures of both.

A copy includes everything in the source at that time, also heads and projections: averaged towers below a head that is still
trained would give targets that move twice. Copies are part of the training module, so they are in every checkpoint,
but not in the deployed model. They are always in evaluation mode: with dropout,
a teacher would give different targets at each call.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError


class FrozenModules(nn.ModuleDict):
    """Named modules that are always frozen and in evaluation mode. The caller runs them: `companions["teacher"](...)`.

        Companions(model, "teacher", "reference")     two copies of the current model
        Companions(teacher=other)                     another module, not copied: it is frozen in place
        Companions().add_("teacher", model)           a copy at a later time, such as after loading weights

    Attach copies to their source after all of its parts exist.
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
        """Add a copy of the current source under this name, replacing an existing one."""
        self[name] = copy.deepcopy(source).requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> FrozenModules:
        """Stay in evaluation mode, whatever the mode of the source."""
        super().train(False)
        return self

    def copy_(self, name: str, source: nn.Module) -> None:
        """Set the companion to the current source."""
        mix_(self[name], 0.0, (1.0, source))

    def average_(self, name: str, source: nn.Module, momentum: float) -> None:
        """Exponential moving average: companion <- momentum * companion + (1 - momentum) * source. Momentum 1 freezes."""
        mix_(self[name], momentum, (1.0 - momentum, source))


@torch.no_grad()
def mix_(target: nn.Module, own: float, *others: tuple[float, nn.Module]) -> None:
    """target <- own * target + sum of weight * other, for every parameter and floating buffer of `target`, by name.

    Weights must be at least 0 and sum to 1. Others may have more tensors than the target.
    Integer buffers (counters) are copied from the first of the others, unless own = 1, when nothing changes. Raises ConfigError.
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
    if own == 0.0:  # zero times a non-finite value would remain
        torch._foreach_zero_(targets)
    else:
        torch._foreach_mul_(targets, own)
    for weight, tensors in given:
        if weight:
            torch._foreach_add_(targets, [tensors[name] for name in floating], alpha=weight)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
