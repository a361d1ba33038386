"""Matryoshka losses (2205.13147): any objective of this package on prefixes of each feature, so that every prefix is of use.

Letters: M prefixes (or texts, in `text_MD`), N items, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]
Reduction = Literal["mean", "sum"]
"""How the terms of the widths become one number; the paper and its released code take the sum."""
CUT = ("extra_image_KD", "extra_text_KD")
"""What of an objective's other arguments are features, too."""


def truncate(x_ND: Tensor, d: int) -> Tensor:
    """First d dimensions of each feature (of any leading shape), normalised again."""
    if not 0 < d <= x_ND.shape[-1]:
        raise ConfigError(f"dims reach {d} but features have {x_ND.shape[-1]} dimensions")
    return F.normalize(x_ND[..., :d], dim=-1)


def reduce_terms(terms: Sequence[Tensor], weights: Sequence[float] | None = None, reduction: Reduction = "mean") -> Tensor:
    """One number from a term a width: each times its weight (1 without), then the mean over widths or, as published, the sum."""
    if not terms or (weights is not None and len(weights) != len(terms)) or reduction not in ("mean", "sum"):
        given = None if weights is None else list(weights)
        raise ConfigError(
            f"{len(terms)} terms with weights {given}, reduction {reduction!r} (expected one each or none, mean or sum)"
        )
    stacked_M = torch.stack([term if weights is None else term * weights[m] for m, term in enumerate(terms)])
    return stacked_M.mean(0) if reduction == "mean" else stacked_M.sum(0)


def nested_cross_entropy(
    logits_MNC: Tensor,
    label_N: Tensor,
    *,
    weights: Sequence[float] | None = None,
    smoothing: float = 0.0,
    reduction: Reduction = "sum",
) -> tuple[Tensor, Tensor]:
    """The published classification loss: cross-entropy of every prefix's logits, weighted and summed over prefixes.

    Logits come from `models.pairs.classifiers.nested_classifier`. Returns the loss and, detached and unweighted, the
    term of each prefix [M].

    weights    relative importance of each prefix; none: 1 each, as in the paper
    smoothing  share of the target that is spread over all classes; 0.1 in the paper's ImageNet runs
    """
    if logits_MNC.ndim != 3 or label_N.shape != logits_MNC.shape[1:2]:
        raise ShapeError(f"logits must be [M, N, C] with labels [N], got {list(logits_MNC.shape)} and {list(label_N.shape)}")
    if not 0 <= smoothing < 1:
        raise ConfigError(f"smoothing is {smoothing} (expected at least 0, below 1)")
    terms = [F.cross_entropy(logits_NC, label_N, label_smoothing=smoothing) for logits_NC in logits_MNC]
    return reduce_terms(terms, weights, reduction), torch.stack(terms).detach()


def nested(
    objective: Objective, dims: Sequence[int], weights: Sequence[float] | None = None, reduction: Reduction = "mean"
) -> Objective:
    """The mean over `dims` of the objective on image and text features cut to their first d dimensions and normalised again.

    Cutting comes before normalising: the prefix of a unit vector is not a unit vector. The paper sums (`reduction`), which is
    len(dims) times the mean; `weights` scale each term. Extra keys (`CUT`) are cut alike; nothing else that is handed on is.
    Every width costs a pass of d / D of the work. parts: `first_D` for each width, and the objective's own parts at the widest.
    """
    if not dims or min(dims) < 1 or (weights is not None and len(weights) != len(dims)):
        raise ConfigError(f"dims must be widths of 1 or more, with one weight each or none; got {list(dims)} and {weights}")

    def loss(image_ND: Tensor, text_MD: Tensor, **arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        keys = [name for name in CUT if arguments.get(name) is not None]
        terms: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for d in dims:
            cut = {name: truncate(arguments[name], d) for name in keys}
            prefix_Nd, prefix_Md = truncate(image_ND, d), truncate(text_MD, d)
            term, inner = objective(prefix_Nd, prefix_Md, **(arguments | cut))
            terms.append(term)
            parts |= {f"first_{d}": term.detach()} | (inner if d == max(dims) else {})
        return reduce_terms(terms, weights, reduction), parts

    return loss
