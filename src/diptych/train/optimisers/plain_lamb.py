"""LAMB as in the early PyTorch implementation that FILIP's authors used (cybertronai/pytorch-lamb d3ab8dc)."""

from __future__ import annotations

from typing import Any

import torch

LARGEST = 10.0
"""A tensor's norm counts for no more than this."""


class PlainLamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, 1904.00962) of the third version of its paper.

    Three things differ from `Lamb`: the running means are not corrected for their start at zero, so that the first steps' direction is
    sqrt(10) times as long with betas .9, .999, which rescaling takes back but for `eps`; every tensor is rescaled, those without weight
    decay too; and a tensor is rescaled to its norm or `LARGEST`, whichever is less.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
                state["exp_avg"].mul_(first).add_(parameter.grad, alpha=1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                direction = state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(group["eps"])
                if group["weight_decay"]:
                    direction.add_(parameter, alpha=group["weight_decay"])
                size, length = parameter.norm().clamp(max=LARGEST), direction.norm()
                ratio = torch.where((size > 0) & (length > 0), size / length, 1.0)
                parameter.sub_(direction.mul_(ratio), alpha=group["lr"])
