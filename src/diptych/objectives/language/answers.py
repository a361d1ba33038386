"""The loss of written answers.  Letters: B batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.objectives.gather import Group, mean_over_processes

Per = Literal["token", "row"]


def answer_loss(nll_B: Tensor, count_B: Tensor, *, per: Per = "token", rows: int = 0, process_group: Group = None) -> Tensor:
    """The mean over the global batch, nats.

    per  "token": over all tokens of all answers, as transformers and the releases have it, so that long answers weigh more; "row": over
         the tokens of an answer, then over answers
    rows the mean over tokens is taken of so many rows each, and then over these, as where processes and accumulated steps of a release have
         so many and average what they found; 0: of all
    Averaged over processes, loss and gradients are those of the global mean.
    """
    if per == "token" and rows:
        parts = zip(nll_B.split(rows), count_B.split(rows), strict=True)
        return torch.stack([nll.sum() / count.sum().clamp_min(1e-9) for nll, count in parts]).mean()
    if per == "row":
        return (nll_B / count_B.clamp_min(1)).mean()
    return nll_B.sum() / mean_over_processes(count_B.sum().detach(), process_group).clamp_min(1e-9)
