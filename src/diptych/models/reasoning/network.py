"""Recurrent Relational Network for one kind of problem, and an MLP baseline.

Letters: B batch, N nodes, T steps, A answers, K classes, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.models.layers.mlp import MLP
from diptych.models.reasoning.batches import ProblemForm, ReasoningBatch
from diptych.models.reasoning.encoders import Edges, GridEncoder, StoryEncoder, ThingEncoder
from diptych.models.reasoning.relational_block import HIDDEN_LAYERS, RelationalBlock, xavier_

Network = Literal["recurrent", "mlp"]


@dataclass(frozen=True, slots=True)
class StepLogits:
    """logit_BTAK  logits of every class, for each answer after each step
    squares     [1], half of the sum of squares of the penalised weights
    """

    logit_BTAK: Rows[Tensor]
    squares: Tensor


@dataclass(frozen=True, kw_only=True)
class NetworkForm:
    """Sizes of the network; `steps` is the default number of steps."""

    form: ProblemForm = field(default_factory=ProblemForm)
    network: Network = "recurrent"
    embedding: int = 16
    hidden: int = 96
    steps: int = 32
    edges: Edges = "rules"
    keep: float = 1.0
    pixels: bool = False


class RelationalNetwork(nn.Module):
    """Encoder, message passing, and logits at every step: per node for grids, from the sum over nodes for questions.

    With `network` "mlp" the concatenated inputs of all nodes pass through as many ReLU layers once, without messages and steps.
    """

    def __init__(self, shape: NetworkForm) -> None:
        super().__init__()
        self.shape, form = shape, shape.form
        if form.problem == "sudoku":
            self.encoder: Any = GridEncoder(form, shape.embedding, shape.edges)
        elif form.problem == "story":
            self.encoder = StoryEncoder(form, shape.embedding)
        else:
            self.encoder = ThingEncoder(form, pixels=shape.pixels)
        self.by_node, classes = form.problem == "sudoku", len(form.names)
        if shape.network == "mlp":
            if not self.by_node:
                raise ConfigError("network 'mlp' works only on grids (expected network='recurrent')")
            cells = form.side**2
            self.plain = MLP([cells * self.encoder.width, *[shape.hidden] * HIDDEN_LAYERS, cells * classes])
            xavier_(self.plain)
            return
        self.block = RelationalBlock(self.encoder.width, shape.hidden, edge_width=self.encoder.edge_width, keep=shape.keep)
        self.head: nn.Module = nn.Linear(shape.hidden, classes) if self.by_node else MLP([shape.hidden] * 3 + [classes])
        xavier_(self.head)

    @property
    def penalised(self) -> list[Tensor]:
        """Weights with an L2 penalty: those of the MLPs, including that of the sum over nodes, but not the head of a node."""
        if self.shape.network == "mlp":
            return [layer.weight for layer in self.plain if isinstance(layer, nn.Linear)]
        head = [] if self.by_node else [layer.weight for layer in self.head.modules() if isinstance(layer, nn.Linear)]
        return [*self.block.penalised, *head]

    def forward(self, batch: ReasoningBatch, steps: int = 0) -> StepLogits:
        """steps  0: those of the form."""
        inputs = self.encoder(batch)
        squares = half_squares(self.penalised)
        if self.shape.network == "mlp":
            logit_BNK = self.plain(inputs.node_BND.flatten(1)).unflatten(1, (-1, len(self.shape.form.names)))
            return StepLogits(logit_BNK[:, None], squares)
        h_TBND = self.block(
            inputs.node_BND, inputs.edge_E2, inputs.edge_BEF, steps=steps or self.shape.steps, exists_BN=inputs.exists_BN
        )
        if self.by_node:
            return StepLogits(self.head(h_TBND).transpose(0, 1), squares)
        if inputs.exists_BN is not None:
            h_TBND = h_TBND * inputs.exists_BN[..., None].to(h_TBND)
        logit_TBK: Tensor = self.head(h_TBND.sum(2))
        return StepLogits(logit_TBK.transpose(0, 1)[:, :, None], squares)


def half_squares(weights: Iterable[Tensor]) -> Tensor:
    """Return half of the sum of squares of all weights [1], TensorFlow's `l2_loss`."""
    return 0.5 * torch.stack([weight.float().square().sum() for weight in weights]).sum()[None]


def predicted(logit_BTAK: Tensor) -> Tensor:
    """Return the most likely class of each answer, int64 [B, T, A]."""
    return torch.argmax(logit_BTAK, -1)
