"""Adan: Adam with Nesterov's look ahead by differences of gradients (Xie et al. 2022, 2208.06677)."""

from __future__ import annotations

from typing import Any

import timm.optim

from diptych.train.optimisers.counts_by_parameter import CountsByParameter


class Adan(CountsByParameter, timm.optim.Adan):  # type: ignore[misc]
    """timm's, in the published proximal form: weights are divided by 1 + lr * decay.

    betas, third_beta  how much of the running means of gradients, of their differences and of squares is kept: 0.98, 0.92, 0.99 in the
                       paper, which writes them as 0.02, 0.08, 0.01
    """

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], third_beta: float, eps: float) -> None:
        super().__init__(params, lr=lr, betas=(*betas, third_beta), eps=eps, weight_decay=0.0)
