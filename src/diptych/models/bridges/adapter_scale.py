"""Low-rank adapters of a language model whose strength is chosen after training (PLLaVA, 2404.16994)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import nn

from diptych.core.errors import ConfigError
from diptych.models.towers.adapters import LoRAConfig, add_adapters


@dataclass(frozen=True, slots=True)
class ScaledAdapters:
    """Adapters by rank and the modules that have one: W + (used / rank) B A, trained with W + (alpha / rank) B A.

    targets  patterns of the names of modules
    used     alpha at inference: 0 is the language model without adapters, `alpha` the value of training
    """

    rank: int
    targets: tuple[str, ...]
    alpha: float
    used: float
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or self.used < 0:
            raise ConfigError(
                f"adapters of rank {self.rank}, alpha {self.alpha:g}, used {self.used:g} (expected 1 or more, above 0, 0 or more)"
            )

    def add(self, inner: nn.Module) -> None:
        """Adds new adapters to a language model with their training scale and freezes all other parameters."""
        add_adapters(inner, LoRAConfig(self.rank, self.targets, self.alpha, self.dropout))

    def apply(self, inner: nn.Module, used: float) -> Self:
        """Sets another inference alpha on the adapters of `inner`; returns the changed settings."""
        changed = replace(self, used=used)
        layers: list[Any] = [module for module in inner.modules() if hasattr(module, "lora_A")]
        if not layers:
            raise ConfigError("the language model has no adapters (expected one that was trained with them)")
        for layer in layers:
            layer.set_scale("default", used / self.alpha)
        return changed

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        return cls(**{**plain, "targets": tuple(plain["targets"])})
