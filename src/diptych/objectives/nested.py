"""Any objective of this room on the first numbers of each feature (Matryoshka, 2205.13147), so that every prefix is of use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def first(x_ND: Tensor, d: int) -> Tensor:
    """The first d numbers of each feature (of any leading shape), normalised again."""
    if not 0 < d <= x_ND.shape[-1]:
        raise ConfigError(f"dims reach {d} but features have {x_ND.shape[-1]} numbers")
    return F.normalize(x_ND[..., :d], dim=-1)


def nested(objective: Objective, dims: Sequence[int], weights: Sequence[float] | None = None) -> Objective:
    """The mean over `dims` of the objective on image and text features cut to their first d numbers and normalised again.

    Cutting comes before normalising: the prefix of a unit vector is not a unit vector. The paper sums with weights 1, so its
    loss is len(dims) times this one; `weights` scale each term of the mean. Extra keys (`extra_*_KD`) are cut alike.
    Every width costs a pass of d / D of the work. parts: `first_D` for each width, and the objective's own parts at the widest.
    """
    if not dims or min(dims) < 1 or (weights is not None and len(weights) != len(dims)):
        raise ConfigError(f"dims must be widths of 1 or more, with one weight each or none; got {list(dims)} and {weights}")

    def loss(image_ND: Tensor, text_MD: Tensor, **arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        keys = [name for name, value in arguments.items() if name.endswith("_KD") and value is not None]
        terms: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for d in dims:
            cut = {name: first(arguments[name], d) for name in keys}
            prefix_Nd, prefix_Md = first(image_ND, d), first(text_MD, d)
            term, inner = objective(prefix_Nd, prefix_Md, **(arguments | cut))
            terms.append(term)
            parts |= {f"first_{d}": term.detach()} | (inner if d == max(dims) else {})
        if weights is not None:
            terms = [term * weight for term, weight in zip(terms, weights, strict=True)]
        return torch.stack(terms).mean(0), parts

    return loss
