"""Losses of one prototype a predicate (PE-Net, Zheng et al., 2023, arXiv 2303.07096): pairs near their own, prototypes far apart.

With r the vector of a pair, c_k that of predicate k (k = 0 is "no relation"), y the label of the pair and K prototypes:

    prototype_distance    g_k = |r - c_k|^2;  mean over pairs of max(0, g_y - mean of the n smallest g_k of the others + margin)
    prototype_similarity  S = C_n stopgrad(C_n)^T of the normed prototypes;  sum over rows of |S_k| / K^2
    prototype_spread      mean over k of max(0, margin - min over j != k of |c_k - stopgrad(c_j)|^2)

The fourth term, cross-entropy over cosines by a learned temperature, is that of any classifier (`pair_cross_entropy`).

What implementations get wrong: distances of a prototype to itself among the nearest (masked here; the release counts a zero in and takes
one more, which is the same number); the gradient of a distance of zero, if it is taken of a root; a mean over the pairs of this process
alone, when others hold more. With fewer than n other prototypes the mean is over those there are (the release has 51 and divides by 10).

Letters: P pairs, K prototypes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, all_gather, mean_over_processes, world

NEAREST = 10
"""Other prototypes that a pair is kept away from (published)."""


def prototype_distance(
    pair_PD: Tensor,
    prototype_KD: Tensor,
    label_P: Tensor,
    *,
    margin: float = 1.0,
    nearest: int = NEAREST,
    process_group: Group = None,
) -> Tensor:
    """Hinge on a pair's distance to its own prototype against the mean of the nearest others; both carry gradients. Scalar."""
    _check(pair_PD, prototype_KD, label_P)
    distance_PK = squared_distances(pair_PD, prototype_KD)
    own_PK = F.one_hot(label_P, len(prototype_KD)).bool()
    others = min(nearest, len(prototype_KD) - 1)
    away_P = distance_PK.masked_fill(own_PK, torch.inf).topk(others, dim=1, largest=False).values.mean(1)
    own_P = distance_PK.gather(1, label_P[:, None])[:, 0]
    return mean_over_pairs((own_P - away_P + margin).clamp(min=0), process_group)


def prototype_similarity(prototype_KD: Tensor) -> Tensor:
    """The L2,1 norm of the cosines among prototypes, divided by their number squared; the gradient flows through one side. Scalar."""
    unit_KD = F.normalize(prototype_KD, dim=1)
    length_K: Tensor = (unit_KD @ unit_KD.detach().T).norm(dim=1)
    return length_K.sum() / len(prototype_KD) ** 2


def prototype_spread(prototype_KD: Tensor, *, margin: float = 7.0) -> Tensor:
    """Hinge on each prototype's squared distance to its nearest other one, which should reach `margin`. Scalar."""
    return (margin - nearest_distances(prototype_KD)).clamp(min=0).mean()


def nearest_distances(prototype_KD: Tensor) -> Tensor:
    """[K]: the squared distance of each prototype to its nearest other one, which is held fast."""
    distance_KK = squared_distances(prototype_KD, prototype_KD.detach())
    own_KK = torch.eye(len(prototype_KD), dtype=torch.bool, device=prototype_KD.device)
    return distance_KK.masked_fill(own_KK, torch.inf).amin(1)


def pair_cross_entropy(logit_PK: Tensor, label_P: Tensor, process_group: Group = None) -> Tensor:
    """Cross-entropy of the labels, the mean over the pairs of all processes. Scalar, 0 without a pair."""
    return mean_over_pairs(F.cross_entropy(logit_PK, label_P, reduction="none"), process_group)


def mean_over_pairs(value_P: Tensor, process_group: Group = None) -> Tensor:
    """The mean over the pairs of all processes, which need not hold equally many; 0 without a pair. Scalar."""
    counts = all_gather(torch.tensor(float(len(value_P)), device=value_P.device), process_group)
    share = counts.sum().clamp(min=1) / world(process_group)[1]
    return mean_over_processes(value_P.sum() / share.to(value_P.dtype), process_group)


def squared_distances(one_PD: Tensor, other_KD: Tensor) -> Tensor:
    """[P, K], by differences: products would cancel where two vectors nearly agree."""
    return (one_PD[:, None] - other_KD[None]).square().sum(-1)


def _check(pair_PD: Tensor, prototype_KD: Tensor, label_P: Tensor) -> None:
    if pair_PD.ndim != 2 or prototype_KD.shape[1:] != pair_PD.shape[1:] or len(prototype_KD) < 2:
        raise ShapeError(
            f"pairs are {list(pair_PD.shape)} and prototypes {list(prototype_KD.shape)} (expected [P, D] and [K, D])"
        )
    if label_P.shape != pair_PD.shape[:1] or label_P.is_floating_point():
        raise ShapeError(f"labels are {label_P.dtype} {list(label_P.shape)} (expected whole numbers [{len(pair_PD)}])")
