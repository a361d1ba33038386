"""Nucleus sampling as LiMBeR and MAGMA released it, for answers that are to be compared with theirs.  Letters: B batch, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ConfigError


class NarrowTopP:
    """A logits processor of transformers. It keeps the most likely token and those preceded by at most 1 - top_p of the
    probability mass: a `top_p` of .9 samples from the top tenth instead of the top nine tenths. Probabilities are taken before
    any temperature. 0 keeps all tokens.

    >>> NarrowTopP(0.9)(None, torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()).exp().round(decimals=2)
    tensor([[0.5000, 0.0000, 0.0000, 0.0000]])
    """

    def __init__(self, top_p: float = 0.9) -> None:
        if not 0 <= top_p <= 1:
            raise ConfigError(f"top_p is {top_p} (expected 0 to 1)")
        self.top_p = top_p

    def __call__(self, id_BT: Tensor | None, logit_BV: Tensor) -> Tensor:
        if not self.top_p:
            return logit_BV
        sorted_BV, token_BV = logit_BV.sort(descending=True)
        before_BV = sorted_BV.softmax(1).cumsum(1).roll(1, 1)
        before_BV[:, 0] = 0.0
        out_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, token_BV, before_BV > 1 - self.top_p)
        out_BV = out_BV.scatter(1, token_BV[:, :1], False)
        return logit_BV.masked_fill(out_BV, -torch.inf)
