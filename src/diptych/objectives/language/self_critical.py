"""Captions that are drawn, rewarded and learned from (self-critical sequence training, Rennie et al., 2017, arXiv 1612.00563).

    loss = 100 / B sum over drawn captions of (baseline - reward) * mean over its words of log p

A caption that is worth more than the baseline becomes likelier. FIBER's last stage (2206.07643) draws five for each picture, rewards them
by CIDEr-D and takes 1 as the baseline. What implementations get wrong: the mark of the end is a word that was chosen, and counts.

Letters: B pictures, N drawn captions, L tokens, M = L - 1 choices, V words.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-9
"""Added to a probability before its logarithm, and to a number of words, as released."""
SCALE = 100.0


def mean_log_probability(logit_NLV: Tensor, ids_NL: Tensor, chosen_NM: Tensor) -> Tensor:
    """[N]: the mean of log p over the choices of each caption. `logit_NLV` at place l answers for the token at l + 1; `chosen_NM` is True
    where that token was chosen and is no padding."""
    wide = torch.promote_types(logit_NLV.dtype, torch.float32)
    log_NMV = (logit_NLV[:, :-1].to(wide).softmax(-1) + EPS).log()
    picked_NM = log_NMV.gather(-1, ids_NL[:, 1:, None]).squeeze(-1) * chosen_NM
    return picked_NM.sum(1) / (chosen_NM.sum(1) + EPS)


def self_critical_loss(log_N: Tensor, reward_N: Tensor, baseline_N: Tensor, *, pictures: int) -> Tensor:
    """The loss above, of what `mean_log_probability` gives for captions of so many pictures. Rewards have no gradient."""
    return SCALE * (log_N * (baseline_N - reward_N).detach().to(log_N)).sum() / pictures
