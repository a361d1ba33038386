"""Optimisers of timm that count steps by parameter.

timm counts by group. Here every parameter has its own count among its state, as in torch's optimisers: checkpoints are by parameter, and a
module that grows has old and new parameters in one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


class CountsByParameter:
    """Goes before a timm optimiser among the bases of a class."""

    param_groups: list[dict[str, Any]]
    state: dict[Any, dict[str, Any]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        groups = self.param_groups
        self.param_groups = [part for group in groups for part in self._by_count(group)]
        try:
            super().step()  # type: ignore[misc]
            for part in self.param_groups:
                for parameter in part["params"]:
                    self.state[parameter]["step"] = int(part["step"])
        finally:
            self.param_groups = groups

    def _by_count(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The group's parameters that have a gradient, one part for each number of steps that they have taken: one as a rule."""
        counts: dict[int, list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                counts.setdefault(self.state.get(parameter, {}).get("step", 0), []).append(parameter)
        for count, parameters in counts.items():
            yield {**group, "params": parameters, "step": self._group_count(count)}

    def _group_count(self, count: int) -> Any:
        """A group's number of steps in the form that timm's class keeps it in."""
        return count
