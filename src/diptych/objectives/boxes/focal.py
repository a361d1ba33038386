"""Cross-entropies of independent sigmoids that go easy on what is already right. Each gives one number a logit; sum and divide
as your method does (detectors: by the number of positives, never by the number of logits).

    sigmoid_focal   a_t (1 - p_t)^g BCE(p, y)                      y in {0, 1}         RetinaNet (Lin et al., 2017, 1708.02002)
    quality_focal   |y - p|^g BCE(p, y)                            y in [0, 1]         GFL (Li et al., 2020, 2006.04388); RLIP: g = 2
    corner_focal    (1 - p)^g BCE(p, 1) where y = 1,               y in [0, 1]         CornerNet (Law & Deng, 2018, 1808.01244);
                    (1 - y)^d p^g BCE(p, 0) elsewhere                                  g = 2, d = 4

With y in {0, 1} the last two are `sigmoid_focal` without its a_t. They differ in what a soft label means: for quality_focal it is
the probability to reach, so that p = y costs nothing; for corner_focal it is a negative that is punished less.

What implementations get wrong: p clamped before the logarithm, after which a confident mistake gets no gradient at all
(`clamp=1e-6` is the released form of RLIP and RLIPv2; from logits nothing has to be clamped); the factor |y - p|^g taken as a
constant, which has another gradient.

Letters: X any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError


def sigmoid_focal(logit_X: Tensor, target_X: Tensor, *, alpha: float | None = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each logit against a 0/1 target. `alpha` weighs positives, 1 - alpha negatives; None weighs none."""
    if alpha is not None and not 0 <= alpha <= 1:
        raise ConfigError(f"alpha must be in [0, 1], or None for no weights; got {alpha}")
    loss_X = quality_focal(logit_X, target_X, gamma=gamma)
    return loss_X if alpha is None else loss_X * (alpha * target_X + (1 - alpha) * (1 - target_X))


def quality_focal(logit_X: Tensor, target_X: Tensor, *, gamma: float = 2.0, clamp: float | None = None) -> Tensor:
    """Quality focal loss of each logit against a soft target in [0, 1]; with gamma > 0 it is 0 where sigmoid(logit) = target.

    The gradient flows through both factors. `clamp` keeps probabilities that far from 0 and 1, as released.
    """
    _check(gamma)
    p_X = logit_X.sigmoid()
    if clamp is None:
        entropy_X = F.binary_cross_entropy_with_logits(logit_X, target_X, reduction="none")
    else:
        p_X = p_X.clamp(clamp, 1 - clamp)
        entropy_X = F.binary_cross_entropy(p_X, target_X, reduction="none")
    return _power((target_X - p_X).abs(), gamma) * entropy_X


def corner_focal(logit_X: Tensor, target_X: Tensor, *, gamma: float = 2.0, delta: float = 4.0) -> Tensor:
    """CornerNet's focal loss of each logit: targets of exactly 1 are positives, all others negatives weighted (1 - target)^delta."""
    _check(gamma)
    hit_X = target_X == 1
    weight_X = torch.where(hit_X, 1.0, _power(1 - target_X, delta))
    return weight_X * quality_focal(logit_X, hit_X.to(logit_X.dtype), gamma=gamma)


def _power(base_X: Tensor, exponent: float) -> Tensor:
    """base ** exponent with a gradient that is finite at 0 for exponents of 1 and more."""
    return base_X.square() if exponent == 2 else base_X.pow(exponent)


def _check(gamma: float) -> None:
    if gamma < 0:
        raise ConfigError(f"gamma must be 0 or more, got {gamma}")
