"""Losses of picking a picture by propositions (NDCR, Li et al., 2023, arXiv 2305.02265).

Letters: B batch, K pictures, P propositions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pick_nll(answer_BK: Tensor, target_B: Tensor, *, twice: bool = False) -> Tensor:
    """Mean negative log of the share that the right picture has.

    twice  the shares are taken for logits and go through another softmax, as the released code does
    """
    share_BK = answer_BK.float()
    return F.cross_entropy(share_BK, target_B) if twice else F.nll_loss(share_BK.clamp(min=1e-12).log(), target_B)


def proposition_cross_entropy(
    proposition_BPK: Tensor, exists_BP: Tensor, target_B: Tensor, conjoined_BK: Tensor | None = None
) -> Tensor:
    """Mean over sets of the mean over their propositions, and the conjunction where there is one: each points at the right picture."""
    logit_BRK, exists_BR = proposition_BPK, exists_BP
    if conjoined_BK is not None:
        logit_BRK = torch.cat((proposition_BPK, conjoined_BK[:, None]), 1)
        exists_BR = torch.cat((exists_BP, torch.ones_like(exists_BP[:, :1])), 1)
    target_BR = target_B[:, None].expand(exists_BR.shape)
    each_BR = F.cross_entropy(logit_BRK.float().transpose(1, 2), target_BR, reduction="none")
    return _mean_of_existing(each_BR, exists_BR).mean()


def negation_hinge(
    proposition_BPK: Tensor, negated_BPK: Tensor, exists_BP: Tensor, *, margin: float = 0.2, temperature: float = 0.25
) -> Tensor:
    """max(margin - KL, 0), mean over sets; KL of what a proposition says (sharpened, without gradient) from what its negation says, mean
    over the propositions of a set."""
    said_BPK = (proposition_BPK.detach().float() / temperature).softmax(-1)
    each_BP = F.kl_div(negated_BPK.float().log_softmax(-1), said_BPK, reduction="none").sum(-1)
    return (margin - _mean_of_existing(each_BP, exists_BP)).clamp(min=0).mean()


def diversity_hinge(vector_BPD: Tensor, exists_BP: Tensor, *, margin: float = 0.2) -> Tensor:
    """max(mean cosine of neighbouring propositions - margin, 0), mean over sets; sets of one proposition have 0."""
    both_BQ = exists_BP[:, 1:] & exists_BP[:, :-1]
    each_BQ = F.cosine_similarity(vector_BPD[:, 1:].float(), vector_BPD[:, :-1].float(), dim=-1, eps=1e-6) - margin
    return _mean_of_existing(each_BQ, both_BQ).clamp(min=0).mean()


def word_alignment(vector_BPD: Tensor, words_BPD: Tensor, exists_BP: Tensor) -> Tensor:
    """1 - cosine of each proposition's vector and a vector of its words; mean over sets of the mean over propositions."""
    each_BP = 1 - F.cosine_similarity(vector_BPD.float(), words_BPD.float(), dim=-1)
    return _mean_of_existing(each_BP, exists_BP).mean()


def _mean_of_existing(value_BP: Tensor, exists_BP: Tensor) -> Tensor:
    """[B]; 0 for rows in which nothing exists."""
    kept_BP = torch.where(exists_BP, value_BP, 0.0)
    return kept_BP.sum(1) / exists_BP.sum(1).clamp(min=1)
