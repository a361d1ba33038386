"""AdamW as formerly implemented in transformers, which published training code still uses."""

from __future__ import annotations

import math
from typing import Any

import torch


class CorrectedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, 1711.05101) of `transformers.optimization`, as of its version 4.24.

    Two things differ from torch's AdamW, both in second order. Bias correction multiplies the rate, so that `eps` stands beside the root
    of the running mean of squares as it is: in the first steps it counts for up to sqrt(1 / (1 - betas[1])) times more. And weights
    decay after the step, what the step added included.
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
                    state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
                state["step"] += 1
                state["exp_avg"].mul_(first).add_(parameter.grad, alpha=1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                rate = group["lr"] * math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
                parameter.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-rate)
                if group["weight_decay"] > 0:
                    parameter.add_(parameter, alpha=-group["lr"] * group["weight_decay"])
