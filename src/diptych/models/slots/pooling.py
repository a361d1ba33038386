"""Pooling of slots into one vector, for a policy or a head.

Letters: B batch, S slots, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, UnknownName

PoolingKind = Literal["transformer", "mlp", "relation_network", "concatenation"]


class TransformerPooling(nn.Module):
    """A class token reads the slots in a transformer (post-norm, ReLU, 2,048 hidden). Without positions the slots are a set.

    positions  "none", or "sine": small sines, times 0.001, for grids, whose order means a place
    dropout    0.1 in the release; it acts in training alone
    """

    position_1TD: Tensor | None

    def __init__(
        self, inputs: int, *, width: int = 128, heads: int = 8, layers: int = 1, positions: Literal["none", "sine"] = "none",
        slots: int = 0, dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width = width
        self.linear = nn.Linear(inputs, width)
        self.class_11D = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2048, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.register_buffer("position_1TD", small_sines(slots + 1, width)[None] if positions == "sine" else None)

    def forward(self, slot_BSD: Tensor) -> Tensor:
        read_BTD = torch.cat([self.class_11D.expand(len(slot_BSD), -1, -1), self.linear(slot_BSD)], 1)
        if self.position_1TD is not None:
            read_BTD = read_BTD + self.position_1TD
        pooled_BD: Tensor = self.encoder(read_BTD)[:, 0]
        return pooled_BD


def small_sines(length: int, width: int, scale: float = 1e-3) -> Tensor:
    """[length, width]: sines and cosines in turn, times `scale`."""
    turn_F = (torch.arange(0, width, 2) * (-math.log(10_000.0) / width)).exp()
    angle_TF = torch.arange(length)[:, None] * turn_F
    return torch.stack([angle_TF.sin(), angle_TF.cos()], -1).flatten(1) * scale


class MLPPooling(nn.Module):
    """Slots one after another, and an MLP: their order matters."""

    def __init__(self, inputs: int, slots: int, *, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.width = hidden[-1]
        self.mlp = _mlp(inputs * slots, hidden)

    def forward(self, slot_BSD: Tensor) -> Tensor:
        pooled_BD: Tensor = self.mlp(slot_BSD.flatten(1))
        return pooled_BD


class RelationNetwork(nn.Module):
    """An MLP on every ordered pair of slots, their sum, and an MLP (Santoro et al., 2017, 1706.01427)."""

    def __init__(
        self, inputs: int, *, pair: Sequence[int] = (256, 256, 256, 256), whole: Sequence[int] = (256, 128, 64, 64)
    ) -> None:
        super().__init__()
        self.width = whole[-1]
        self.pair, self.whole = _mlp(2 * inputs, pair), _mlp(pair[-1], whole)

    def forward(self, slot_BSD: Tensor) -> Tensor:
        if slot_BSD.shape[1] < 2:
            raise ConfigError("a relation network needs two slots or more")
        first, second = zip(*permutations(range(slot_BSD.shape[1]), 2), strict=True)
        pair_BRD = torch.cat([slot_BSD[:, list(first)], slot_BSD[:, list(second)]], -1)
        pooled_BD: Tensor = self.whole(self.pair(pair_BRD).sum(1))
        return pooled_BD


class Concatenation(nn.Module):
    """Slots one after another."""

    def __init__(self, inputs: int, slots: int) -> None:
        super().__init__()
        self.width = inputs * slots

    def forward(self, slot_BSD: Tensor) -> Tensor:
        return slot_BSD.flatten(1)


def slot_pooling(kind: str, inputs: int, slots: int, **options: Any) -> nn.Module:
    """A pooling by name. It has the `width` of what it gives."""
    if kind == "transformer":
        return TransformerPooling(inputs, slots=slots, **options)
    if kind == "mlp":
        return MLPPooling(inputs, slots, **options)
    if kind == "relation_network":
        return RelationNetwork(inputs, **options)
    if kind == "concatenation":
        return Concatenation(inputs, slots)
    raise UnknownName("pooling", kind, ("transformer", "mlp", "relation_network", "concatenation"))


def _mlp(inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)
