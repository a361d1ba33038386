"""LAMB: Adam whose step is rescaled, tensor by tensor, to the size of the weights (You et al. 2020, 1904.00962)."""

from __future__ import annotations

from typing import Any

import timm.optim
import torch

from diptych.train.optimisers.counts_by_parameter import CountsByParameter


class Lamb(CountsByParameter, timm.optim.Lamb):  # type: ignore[misc]
    """timm's, with the published choices: bias correction, no clipping of its own, and no rescaling in groups without decay (biases,
    norms, scale)."""

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=0.0, max_grad_norm=None)

    def _group_count(self, count: int) -> Any:
        return torch.tensor(float(count))
