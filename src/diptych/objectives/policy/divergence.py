"""Distance of a policy from a reference: estimates from drawn actions, and controllers of its price."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError

KLEstimate = Literal["k1", "k2", "k3"]
"""k1: log ratio; k2: half its square; k3: exp(-k1) - 1 + k1 (Schulman, 2020, "Approximating KL divergence")."""


def kl_estimate(log_prob: Tensor, reference: Tensor, kind: KLEstimate = "k1", *, floor: float | None = None) -> Tensor:
    """KL(policy, reference) by action, from log-probabilities of the actions that the policy drew.

    floor  a lower bound, such as 0 for k1
    """
    log_ratio = log_prob - reference
    if kind == "k1":
        estimate = log_ratio
    elif kind == "k2":
        estimate = 0.5 * log_ratio.square()
    elif kind == "k3":
        estimate = torch.exp(-log_ratio) - 1 + log_ratio
    else:
        raise ConfigError(f"KL estimate {kind!r} (expected k1 | k2 | k3)")
    return estimate if floor is None else estimate.clamp(min=floor)


class KLController(nn.Module):
    """Coefficient of the KL penalty, which follows a target: beta <- beta (1 + rate clip(KL / target - 1, -bound, bound)).

    Adaptive as in Ziegler et al. (2019, 1909.08593), whose rate is the number of samples over a horizon; RL4LMs takes 0.1 a rollout.
    Without a target the coefficient is fixed. `updates` counts rollouts. The state is buffers: as a companion of a run it is in
    the checkpoints.
    """

    coefficient: Tensor
    updates: Tensor

    def __init__(self, coefficient: float, target: float | None = None, *, rate: float = 0.1, bound: float = 0.2) -> None:
        super().__init__()
        if coefficient < 0 or (target is not None and target <= 0):
            raise ConfigError(f"KL coefficient {coefficient}, target {target} (expected 0 or more, and above 0 or none)")
        self.target, self.rate, self.bound = target, rate, bound
        self.register_buffer("coefficient", torch.tensor([coefficient], dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, kl: Tensor | float) -> None:
        """Follow the mean KL of a rollout, which must be the same on all processes, and count it."""
        self.updates += 1
        if self.target is None:
            return
        excess = (torch.as_tensor(kl).to(self.coefficient) - self.target) / self.target
        self.coefficient *= 1 + self.rate * excess.clamp(-self.bound, self.bound)
