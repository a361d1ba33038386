"""Classifiers on prefixes of a feature (Matryoshka, 2205.13147).  Letters: M prefixes, N items, D width, C classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError


class NestedClassifier(nn.Module):
    """Logits [M, N, C] from features [N, width], one linear classifier on the first d dimensions for each d of `dims`.

    tied  the efficient form: all classifiers are slices of one weight [C, max(dims)] and share one bias (MRL-E);
    else each has its own
    bias  whether the classifiers have one

    Features are truncated and not normalised. The published loss is `objectives.pairs.nested.nested_cross_entropy`;
    the term of d
    has zero gradient for the dimensions beyond d.
    """

    def __init__(self, width: int, classes: int, dims: Sequence[int], *, tied: bool = False, bias: bool = True) -> None:
        super().__init__()
        if not dims or min(dims) < 1 or max(dims) > width:
            raise ConfigError(f"dims is {list(dims)} (expected widths from 1 to {width}, that of the features)")
        self.width, self.dims = width, tuple(dims)
        self.shared = nn.Linear(max(dims), classes, bias=bias) if tied else None
        self.linears = nn.ModuleList([] if tied else [nn.Linear(d, classes, bias=bias) for d in dims])

    def forward(self, x_ND: Tensor) -> Tensor:
        if self.shared is not None:
            weight_CD, bias_C = self.shared.weight, self.shared.bias
            return torch.stack([F.linear(x_ND[:, :d], weight_CD[:, :d], bias_C) for d in self.dims])
        return torch.stack([linear(x_ND[:, :d]) for d, linear in zip(self.dims, self.linears, strict=True)])
