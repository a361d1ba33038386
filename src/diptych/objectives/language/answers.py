"""Loss of generated answers.  Letters: B batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.objectives.gather import Group, mean_over_processes

Per = Literal["token", "row"]


def answer_loss(nll_B: Tensor, count_B: Tensor, *, per: Per = "token", rows: int = 0, process_group: Group = None) -> Tensor:
    """Mean negative log-likelihood over the global batch, in nats.

    per  "token": over all tokens of all answers, as in transformers and the released code, so long answers weigh more; "row":
         over the tokens of each answer, then over answers
    rows size of the groups of rows over which the token mean is taken before averaging over groups, like the per-process batches
    and
         accumulation steps of a release; 0: a single group
    Averaged over processes, loss and gradients are those of the global mean.
    """
    if per == "token" and rows:
        parts = zip(nll_B.split(rows), count_B.split(rows), strict=True)
        return torch.stack([nll.sum() / count.sum().clamp_min(1e-9) for nll, count in parts]).mean()
    if per == "row":
        return (nll_B / count_B.clamp_min(1)).mean()
    return nll_B.sum() / mean_over_processes(count_B.sum().detach(), process_group).clamp_min(1e-9)
