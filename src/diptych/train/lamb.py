"""LAMB: Adam whose step is rescaled, tensor by tensor, to the size of the weights (You et al. 2020, 1904.00962)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diptych.train.parallel import full, local


class Lamb(torch.optim.Optimizer):
    """update = m / (sqrt(v) + eps) + decay * weight; weight -= lr * (|weight| / |update|) * update.

    m and v are bias-corrected. The ratio is 1 where either norm is 0 and for groups without decay (biases, norms, scale), as in
    the published experiments. Norms are those of the whole tensor also when it is sharded. Gradients are not clipped here.
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        first, second = group["betas"]
        assert parameter.grad is not None
        grad = parameter.grad
        state["exp_avg"].lerp_(grad, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(grad, grad, value=1 - second)
        mean = state["exp_avg"] / (1 - first ** state["step"])
        root = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt()
        update = mean / (root + group["eps"])
        if decay := group["weight_decay"]:
            update = update + decay * parameter
            weight_norm, update_norm = full(parameter.norm()), full(update.norm())
            ratio = torch.where((weight_norm > 0) & (update_norm > 0), weight_norm / update_norm, torch.ones_like(weight_norm))
            local(parameter).sub_(group["lr"] * ratio * local(update))
        else:
            parameter.sub_(update, alpha=group["lr"])
