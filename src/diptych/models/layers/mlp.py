"""A plain multi-layer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn


class MLP(nn.Sequential):
    """Linear layers of these widths (the first is that of the input) with ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        linear = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        super().__init__(*(part for layer in linear[:-1] for part in (layer, nn.ReLU())), linear[-1])

    @property
    def last(self) -> nn.Linear:
        layer = self[-1]
        assert isinstance(layer, nn.Linear)
        return layer
