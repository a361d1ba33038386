"""Action masks: the tokens that a policy may sample, and its probabilities over them.

NLPO (Ramamurthy et al., 2022, 2210.01241) computes the mask with an older copy of the policy and stores it with each transition:
it is applied in sampling, in the old log-probability and in every update. Letters: N rows, V actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.core.errors import ShapeError


def top_p_mask(logit_NV: Tensor, p: float, *, min_keep: int = 1, always: Sequence[int] = ()) -> Tensor:
    """Top-p mask [N, V]: True on the smallest set of actions whose probability reaches p, including the one that crosses p.

    min_keep  minimum number of most likely actions to keep
    always    actions that are kept in every row, such as special tokens
    """
    sorted_NV, order_NV = logit_NV.sort(stable=True, dim=-1, descending=True)
    reached_NV = sorted_NV.softmax(-1).cumsum(-1) > p
    dropped_NV = torch.cat([torch.zeros_like(reached_NV[:, :1]), reached_NV[:, :-1]], 1)
    dropped_NV[:, : max(min_keep, 1)] = False
    return _with(torch.zeros_like(dropped_NV).scatter(1, order_NV, ~dropped_NV), always)


def top_k_mask(logit_NV: Tensor, k: int, *, always: Sequence[int] = ()) -> Tensor:
    """Top-k mask [N, V]: True on the k most likely actions, and on those in `always`."""
    best_NK = logit_NV.topk(min(k, logit_NV.shape[1]), -1).indices
    return _with(torch.zeros_like(logit_NV, dtype=torch.bool).scatter(1, best_NK, True), always)


def masked_log_probabilities(logit_NV: Tensor, mask_NV: Tensor | None, *, renormalised: bool = True) -> Tensor:
    """Log-probabilities [N, V] over the actions of the mask, -inf elsewhere.

    renormalised  False, as released with NLPO: the unmasked log-probabilities are used, so their probabilities do not sum to 1,
                  and masked actions get the logarithm of the machine epsilon of the dtype
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
    """Entropy [N] in nats over the actions of the mask.

    renormalised  False, as released: renormalised probabilities times the logarithms of those that are not
    """
    log_NV = masked_log_probabilities(logit_NV, mask_NV, renormalised=renormalised)
    if mask_NV is None:
        return -(log_NV.exp() * log_NV).sum(-1)
    inside_NV = log_NV.masked_fill(~mask_NV, 0.0)
    probability_NV = logit_NV.masked_fill(~mask_NV, -torch.inf).softmax(-1)
    return -(probability_NV * inside_NV).sum(-1)


def drawn_actions(log_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """Inverse-CDF sampling: the action [N] into whose interval of [0, 1) each uniform number falls; never one of probability
    0."""
    reached_NV = log_NV.double().exp().cumsum(-1)
    return torch.searchsorted(reached_NV, (uniform_N.to(reached_NV) * reached_NV[:, -1])[:, None], right=True)[:, 0].clamp(
        max=log_NV.shape[1] - 1
    )


def _with(mask_NV: Tensor, always: Sequence[int]) -> Tensor:
    mask_NV[:, list(always)] = True
    return mask_NV
