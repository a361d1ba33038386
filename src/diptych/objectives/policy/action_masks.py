"""Action masks: which tokens a policy may take, and its probabilities among them.

NLPO (Ramamurthy et al., 2022, 2210.01241) takes the mask of an older copy of the policy and stores it with each transition: it holds in
sampling, in the old log-probability and in every update. Letters: N rows, V actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.core.errors import ShapeError


def top_p_mask(logit_NV: Tensor, p: float, *, min_keep: int = 1, always: Sequence[int] = ()) -> Tensor:
    """[N, V]: True on the smallest set of actions whose probability reaches p, the one that crosses p included.

    min_keep  so many of the likeliest are kept whatever their probability
    always    actions that are kept in every row, such as special tokens
    """
    sorted_NV, order_NV = logit_NV.sort(stable=True, dim=-1, descending=True)
    reached_NV = sorted_NV.softmax(-1).cumsum(-1) > p
    dropped_NV = torch.cat([torch.zeros_like(reached_NV[:, :1]), reached_NV[:, :-1]], 1)
    dropped_NV[:, : max(min_keep, 1)] = False
    return _with(torch.zeros_like(dropped_NV).scatter(1, order_NV, ~dropped_NV), always)


def top_k_mask(logit_NV: Tensor, k: int, *, always: Sequence[int] = ()) -> Tensor:
    """[N, V]: True on the k likeliest actions, and on those that are `always` kept."""
    best_NK = logit_NV.topk(min(k, logit_NV.shape[1]), -1).indices
    return _with(torch.zeros_like(logit_NV, dtype=torch.bool).scatter(1, best_NK, True), always)


def masked_log_probabilities(logit_NV: Tensor, mask_NV: Tensor | None, *, renormalised: bool = True) -> Tensor:
    """[N, V]: log-probabilities among the actions of the mask, -inf on all others.

    renormalised  False, as released with NLPO: log-probabilities of the mask are those without one, so that they do not add up to 1, and
                  an action outside has the logarithm of the smallest number that the type can add to 1
    """
    log_NV = logit_NV.log_softmax(-1)
    if mask_NV is None:
        return log_NV
    if mask_NV.shape != logit_NV.shape:
        raise ShapeError(f"the action mask is {list(mask_NV.shape)}, the logits are {list(logit_NV.shape)} (expected one shape)")
    if renormalised:
        return logit_NV.masked_fill(~mask_NV, -torch.inf).log_softmax(-1)
    eps = torch.finfo(logit_NV.dtype).eps
    return (log_NV.exp() * mask_NV).clamp(eps, 1 - eps).log()


def masked_entropy(logit_NV: Tensor, mask_NV: Tensor | None, *, renormalised: bool = True) -> Tensor:
    """[N]: entropy in nats among the actions of the mask.

    renormalised  False, as released: renormalised probabilities times the logarithms of those that are not
    """
    log_NV = masked_log_probabilities(logit_NV, mask_NV, renormalised=renormalised)
    if mask_NV is None:
        return -(log_NV.exp() * log_NV).sum(-1)
    inside_NV = log_NV.masked_fill(~mask_NV, 0.0)
    probability_NV = logit_NV.masked_fill(~mask_NV, -torch.inf).softmax(-1)
    return -(probability_NV * inside_NV).sum(-1)


def drawn_actions(log_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """[N]: the action in whose share of [0, 1) each uniform number falls; never one of probability 0."""
    reached_NV = log_NV.double().exp().cumsum(-1)
    return torch.searchsorted(reached_NV, (uniform_N.to(reached_NV) * reached_NV[:, -1])[:, None], right=True)[:, 0].clamp(
        max=log_NV.shape[1] - 1
    )


def _with(mask_NV: Tensor, always: Sequence[int]) -> Tensor:
    mask_NV[:, list(always)] = True
    return mask_NV
