"""Dynamic contrastive distillation over candidate lists: contrastive loss and distillation, weighted per anchor.

The formulas are an interpretation of "Dynamic Contrastive Distillation for Image-Text Retrieval" (Rao et al., 2022, arXiv
2207.01426), written from its abstract only: the teacher estimates which pairs are hard, and the weight of each pair between its
contrastive loss and the distillation changes during training.

For an anchor with student scores z and teacher scores y over the same list, the partner first and then K wrong candidates,

    alone    = -log softmax(z)_0                                        the student's own contrast
    follow   = tau^2 KL( softmax(y / tau) || softmax(z / tau) )         distillation
    loss     = mean_i ( w_i alone_i + (1 - w_i) follow_i )

with w from a rule below. p = softmax(y)_0 is the teacher's confidence in the partner, q = softmax(z)_0 the student's, both
detached.

What implementations get wrong: different candidate lists for teacher and student; true matches among the "hardest negatives" of a
good teacher (here `margin` drops them); a gradient through the weights.

Letters: N anchors, K candidates (the partner in column 0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes

Weighting = Literal["constant", "focal", "gap"]
Rule = Callable[[Tensor, Tensor], Tensor]


def weighting_rule(name: Weighting, *, alone: float = 0.5, gamma: float = 2.0, steepness: float = 5.0) -> Rule:
    """Returns a rule (p, q) -> weight of the contrastive loss; p and q are the confidence of teacher and student in the partner.

    constant  `alone` for all
    focal     (1 - q)^gamma: anchors that the student still gets wrong use the contrastive loss, others the distillation
    gap       sigmoid(steepness (q - (1 - p))): contrastive where the student's confidence exceeds the difficulty of the pair
    """
    if not 0 <= alone <= 1 or gamma < 0:
        raise ConfigError(f"alone is {alone:g} and gamma {gamma:g} (expected a share, and 0 or more)")
    rules: dict[str, Rule] = {
        "constant": lambda p_N, q_N: torch.full_like(q_N, alone),
        "focal": lambda p_N, q_N: (1 - q_N) ** gamma,
        "gap": lambda p_N, q_N: torch.sigmoid(steepness * (q_N - (1 - p_N))),
    }
    if name not in rules:
        raise ConfigError(f"weighting is {name!r} (expected {' | '.join(rules)})")
    return rules[name]


def candidate_distillation(
    student_NK: Tensor,
    teacher_NK: Tensor,
    *,
    weigh: Rule,
    kept_NK: Tensor | None = None,
    tau: float = 1.0,
    margin: float | None = None,
    process_group: Group = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Dynamic contrastive distillation loss over candidate lists, and its parts.

    student_NK  logits, gradient flows; teacher_NK the teacher's scores of the same pairs, no gradient. The partner is in column 0
    weigh       rule that maps the confidence of teacher and student in each partner to the weight of the contrastive loss
    kept_NK     False where a list is shorter than K; partners are always kept
    tau         temperature of the distillation, for both models
    margin      negatives that the teacher scores above partner - margin are dropped as likely matches. None keeps all

    The loss is the global mean. parts: alone and follow (unweighted), share_alone (mean weight), dropped (share of the candidates).
    """
    if student_NK.shape != teacher_NK.shape or student_NK.ndim != 2 or student_NK.shape[1] < 2:
        shapes = f"{list(student_NK.shape)} and {list(teacher_NK.shape)}"
        raise ShapeError(f"student and teacher must score the same lists [N, K], K 2 or more; got {shapes}")
    if tau <= 0:
        raise ConfigError(f"the temperature of the distillation is {tau:g} (expected above 0)")
    kept_NK = torch.ones_like(student_NK, dtype=torch.bool) if kept_NK is None else kept_NK.clone()
    if kept_NK.shape != student_NK.shape:
        raise ShapeError(f"kept_NK must be {list(student_NK.shape)}, got {list(kept_NK.shape)}")
    dtype = torch.promote_types(student_NK.dtype, torch.float32)
    z_NK, y_NK = student_NK.to(dtype), teacher_NK.detach().to(dtype)
    kept_NK[:, 0] = True
    listed = kept_NK[:, 1:].sum()
    if margin is not None:
        kept_NK[:, 1:] &= y_NK[:, 1:] <= y_NK[:, :1] - margin
    dropped = listed - kept_NK[:, 1:].sum()
    log_z_NK, log_z_tau_NK, log_y_tau_NK = (log_share(x_NK, kept_NK) for x_NK in (z_NK, z_NK / tau, y_NK / tau))
    alone_N = -log_z_NK[:, 0]
    gap_NK = (log_y_tau_NK - log_z_tau_NK).masked_fill(~kept_NK, 0)
    follow_N = tau**2 * (log_y_tau_NK.exp() * gap_NK).sum(1)
    with torch.no_grad():
        weight_N = weigh(log_share(y_NK, kept_NK)[:, 0].exp(), log_z_NK[:, 0].exp())
    loss = mean_over_processes((weight_N * alone_N + (1 - weight_N) * follow_N).mean(), process_group)
    with torch.no_grad():
        means = torch.stack([alone_N.mean(), follow_N.mean(), weight_N.mean(), (dropped / listed.clamp_min(1)).to(dtype)])
        names = ("alone", "follow", "share_alone", "dropped")
        parts = dict(zip(names, mean_over_processes(means, process_group).unbind(), strict=True))
    return loss, parts


def log_share(x_NK: Tensor, kept_NK: Tensor) -> Tensor:
    """log softmax over what is kept; -inf elsewhere."""
    return x_NK.masked_fill(~kept_NK, -torch.inf).log_softmax(1)
