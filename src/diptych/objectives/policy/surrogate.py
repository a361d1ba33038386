"""Losses of proximal policy optimisation (Schulman et al., 2017, 1707.06347): clipped surrogate, value error, entropy.

Letters: N rows (transitions or answers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ValueLoss = Literal["mean", "pessimistic"]
"""mean: squared error of the clipped value; pessimistic: half the larger of the errors of the value as it is and clipped."""


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The loss, and for the log: how far the policy has moved, without gradient.

    clip_fraction  share of the ratios outside 1 +- clip
    approx_kl      mean of (ratio - 1) - log ratio, which estimates KL(old, new) without bias and is never negative
    """

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def clipped_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip: float = 0.2, counts: Tensor | None = None
) -> Surrogate:
    """-mean min(A ratio, A clamp(ratio, 1 - clip, 1 + clip)), where `counts` is True (everywhere without). All of one shape.

    log_prob, old_log_prob  of the action that was taken, by the policy as it is and by the one that took it
    """
    log_ratio = log_prob - old_log_prob.detach()
    ratio = log_ratio.exp()
    gain = advantage.detach()
    loss = -torch.minimum(gain * ratio, gain * ratio.clamp(1 - clip, 1 + clip))
    with torch.no_grad():
        outside = ((ratio - 1).abs() > clip).to(loss)
        moved = (ratio - 1) - log_ratio
    return Surrogate(counted_mean(loss, counts), counted_mean(outside, counts), counted_mean(moved, counts))


def value_loss(
    value: Tensor,
    returns: Tensor,
    *,
    old_value: Tensor | None = None,
    clip: float | None = None,
    form: ValueLoss = "mean",
    counts: Tensor | None = None,
) -> Tensor:
    """Squared error of the value model. clip: the value may move so far from `old_value`, which it had when the rollout was made."""
    target = returns.detach()
    if clip is None or old_value is None:
        error = (value - target).square()
        return counted_mean(error, counts) if form == "mean" else 0.5 * counted_mean(error, counts)
    bounded = old_value.detach() + (value - old_value.detach()).clamp(-clip, clip)
    if form == "mean":
        return counted_mean((bounded - target).square(), counts)
    return 0.5 * counted_mean(torch.maximum((value - target).square(), (bounded - target).square()), counts)


def counted_mean(x: Tensor, counts: Tensor | None = None) -> Tensor:
    """The mean of the entries where `counts` is True; of all without."""
    return x.mean() if counts is None else (x * counts).sum() / counts.sum().clamp(min=1)
