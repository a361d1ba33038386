"""LAMB: Adam whose step is rescaled, tensor by tensor, to the size of the weights (You et al. 2020, 1904.00962)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import timm.optim
import torch


class Lamb(timm.optim.Lamb):  # type: ignore[misc]
    """timm's, with the published choices: bias correction, no clipping of its own, and no rescaling in groups without decay (biases,
    norms, scale).

    timm counts steps by group. Here every parameter has its own count among its state, as in torch's optimisers: checkpoints are by
    parameter, and a module that grows has old and new parameters in one group.
    """

    param_groups: list[dict[str, Any]]

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=0.0, max_grad_norm=None)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        groups = self.param_groups
        self.param_groups = [part for group in groups for part in self._by_count(group)]
        try:
            super().step()
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
            yield {**group, "params": parameters, "step": torch.tensor(float(count))}
