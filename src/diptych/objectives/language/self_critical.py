"""Self-critical sequence training: policy gradient on sampled captions (Rennie et al., 2017, arXiv 1612.00563).

    loss = 100 / B sum over drawn captions of (baseline - reward) * mean over its words of log p

A caption with a reward above the baseline becomes more likely. FIBER's last stage (2206.07643) samples five per image, rewards
them by CIDEr-D and uses a baseline of 1. What implementations get wrong: the end token was chosen too, and counts as a word.

Letters: B pictures, N drawn captions, L tokens, M = L - 1 choices, V words.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-9
"""Added to a probability before its logarithm, and to a number of words, as released."""
SCALE = 100.0


def mean_log_probability(logit_NLV: Tensor, ids_NL: Tensor, chosen_NM: Tensor) -> Tensor:
    """Mean log p over the choices of each caption, [N]. `logit_NLV` at position l predicts the token at l + 1; `chosen_NM` is
    True where that token was chosen and is not padding."""
    wide = torch.promote_types(logit_NLV.dtype, torch.float32)
    log_NMV = (logit_NLV[:, :-1].to(wide).softmax(-1) + EPS).log()
    picked_NM = log_NMV.gather(-1, ids_NL[:, 1:, None]).squeeze(-1) * chosen_NM
    return picked_NM.sum(1) / (chosen_NM.sum(1) + EPS)


def self_critical_loss(log_N: Tensor, reward_N: Tensor, baseline_N: Tensor, *, pictures: int) -> Tensor:
    """Self-critical loss from the `mean_log_probability` of sampled captions of `pictures` images. Rewards have no gradient."""
    return SCALE * (log_N * (baseline_N - reward_N).detach().to(log_N)).sum() / pictures
