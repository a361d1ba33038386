"""Words and patches of a pair are drawn together by optimal transport, those of a wrong pair apart (UNITER, 1909.11740; ViLT, 2102.03334).

    d = sum_lp T_lp C_lp,   C_lp = 1 - cos(word_l, patch_p),   loss = (sum of d over right pairs - sum of d over wrong ones) / N

T is the plan that moves equal shares of the words to equal shares of the patches, by proximal point iterations (IPOT, 1802.04307): with
G = exp(-C / beta), Q = G * T, then delta = 1 / (P Q sigma), sigma = 1 / (L Q' delta), T = delta Q sigma. It carries no gradient; costs do.

What implementations get wrong: start and end mark of the text and the class token are no words and patches; padding has to stay out of the
plan and of the counts L and P; the plan is computed in at least float32.

Letters: N pairs, L words, P patches, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, mean_over_processes

FAR = 1e4
"""Added to the sums of places that hold nothing, as released, so that their shares stay finite."""


def word_patch_alignment(
    word_NLD: Tensor,
    patch_NPD: Tensor,
    fits_N: Tensor,
    *,
    word_NL: Tensor,
    patch_NP: Tensor,
    beta: float = 0.5,
    iterations: int = 50,
    process_group: Group = None,
) -> Tensor:
    """The loss above.

    fits_N             1 for right pairs, 0 for wrong ones
    word_NL, patch_NP  True at real words and patches
    """
    distance_N = transport_distance(word_NLD, patch_NPD, word_NL=word_NL, patch_NP=patch_NP, beta=beta, iterations=iterations)
    sign_N = 2 * fits_N.to(distance_N) - 1
    return mean_over_processes((sign_N * distance_N).mean(), process_group)


def transport_distance(
    word_NLD: Tensor, patch_NPD: Tensor, *, word_NL: Tensor, patch_NP: Tensor, beta: float = 0.5, iterations: int = 50
) -> Tensor:
    """Optimal-transport cost of moving each pair's words to its patches [N]; 0 where a side has none."""
    if word_NLD.shape[:2] != word_NL.shape or patch_NPD.shape[:2] != patch_NP.shape or word_NLD.shape[2] != patch_NPD.shape[2]:
        raise ShapeError(
            f"words {list(word_NLD.shape)} and patches {list(patch_NPD.shape)} must be [N, L, D] and [N, P, D] with masks [N, L] and "
            f"[N, P], got {list(word_NL.shape)} and {list(patch_NP.shape)}"
        )
    word_NLD, patch_NPD = (x if x.dtype == torch.float64 else x.float() for x in (word_NLD, patch_NPD))
    with torch.autocast(word_NLD.device.type, enabled=False):
        cosine_NLP = F.normalize(word_NLD, dim=-1, eps=1e-5) @ F.normalize(patch_NPD, dim=-1, eps=1e-5).transpose(1, 2)
        real_NLP = word_NL[:, :, None] & patch_NP[:, None, :]
        cost_NLP = (1 - cosine_NLP).masked_fill(~real_NLP, 0)
        plan_NLP = transport_plan(cost_NLP.detach(), word_NL, patch_NP, beta=beta, iterations=iterations)
        return (cost_NLP * plan_NLP).sum((1, 2))


@torch.no_grad()
def transport_plan(cost_NLP: Tensor, word_NL: Tensor, patch_NP: Tensor, *, beta: float, iterations: int) -> Tensor:
    """Shares [N, L, P] that sum to about 1: 1 / L leaves each word, 1 / P reaches each patch, as far as the iterations have come."""
    real_NLP = word_NL[:, :, None] & patch_NP[:, None, :]
    count_N11, patches_N11 = (mask.sum(1).to(cost_NLP)[:, None, None] for mask in (word_NL, patch_NP))
    far_N1P, far_NL1 = FAR * ~patch_NP[:, None, :], FAR * ~word_NL[:, :, None]
    near_NLP = (-cost_NLP / beta).exp().masked_fill(~real_NLP, 0)
    plan_NLP = real_NLP.to(cost_NLP)
    sigma_NL1 = (word_NL.to(cost_NLP) / count_N11[:, 0].clamp_min(1))[..., None]
    for _ in range(iterations):
        moved_NLP = near_NLP * plan_NLP
        delta_N1P = 1 / (patches_N11 * (sigma_NL1.transpose(1, 2) @ moved_NLP) + far_N1P)
        sigma_NL1 = 1 / (count_N11 * (moved_NLP @ delta_N1P.transpose(1, 2)) + far_NL1)
        plan_NLP = delta_N1P * moved_NLP * sigma_NL1
    return plan_NLP.masked_fill(~real_NLP, 0)
