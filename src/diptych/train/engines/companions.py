"""Further models of a run: frozen, on the run's device, in the checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from diptych.core.contracts import Recipe
from diptych.core.errors import RunError


class FrozenModels(Mapping[str, nn.Module]):
    """Models by name that a phase keeps beside the one that it trains: evaluation mode, no gradients."""

    def __init__(self, made: Mapping[str, nn.Module], beside: nn.Module, recipe: Recipe) -> None:
        device = next(beside.parameters()).device
        self._models = {name: model.to(device).eval().requires_grad_(False) for name, model in made.items()}
        self._recipe = recipe
        if any(model is beside for model in self._models.values()):
            raise RunError("a companion is the trained model itself (expected a copy: `frozen_copy`)")

    def __getitem__(self, name: str) -> nn.Module:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def state(self) -> dict[str, Any]:
        """Their tensors. `Recipe.stored` is asked for "COMPANION.TENSOR": a published judge, say, need not be in every checkpoint."""
        return {
            key: {name: value for name, value in model.state_dict().items() if self._recipe.stored(f"{key}.{name}")}
            for key, model in self._models.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        for key, tensors in state.items():
            if key not in self._models:
                raise RunError(f"the checkpoint knows a companion model '{key}', the recipe does not")
            if unknown := self._models[key].load_state_dict(tensors, strict=False).unexpected_keys:
                raise RunError(f"the checkpoint holds '{unknown[0]}' of the companion model '{key}', which has no such tensor")


def frozen_copy(model: nn.Module) -> nn.Module:
    """The model as it is now, which nothing trains."""
    return copy.deepcopy(model).eval().requires_grad_(False)
