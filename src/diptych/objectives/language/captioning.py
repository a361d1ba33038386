"""Next-token cross-entropy of captions: every token after the start, the end mark included; padding counts for nothing.

The mean over the tokens of a row, then over rows, so that the loss of a batch is the mean of its chunks and long captions weigh no more
than short ones; or over all tokens of the batch of all processes, as BLIP has it on one. Letters: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.objectives.gather import mean_over_processes


def caption_loss(logit_BLV: Tensor, text_BL: Tensor, mask_BL: Tensor, *, over: Literal["rows", "tokens"] = "rows") -> Tensor:
    """`logit_BLV` at place l answers for the token at l + 1. Nats. over: "tokens" weighs every token of the global batch alike."""
    wide = torch.promote_types(logit_BLV.dtype, torch.float32)
    nll_BL = F.cross_entropy(logit_BLV[:, :-1].flatten(0, 1).to(wide), text_BL[:, 1:].flatten(), reduction="none")
    there_BL = mask_BL[:, 1:].to(nll_BL.dtype)
    if over == "tokens":
        total, count = (nll_BL.view(there_BL.shape) * there_BL).sum(), mean_over_processes(there_BL.sum())
        return mean_over_processes(total) / count.clamp(min=torch.finfo(count.dtype).tiny)
    nll_B = (nll_BL.view(there_BL.shape) * there_BL).sum(1) / there_BL.sum(1).clamp(min=1)
    return nll_B.mean()
