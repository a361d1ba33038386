"""Graph encoders of grids, stories and sets of objects (Palm et al., 2018, arXiv 1711.08028).

Letters: B batch, N nodes, E edges, D width, F width of an edge's features, L words, P positions of a map, C H W of a picture.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.data.problems.sudoku import sudoku_rules
from diptych.models.reasoning.batches import GridBatch, ProblemForm, StoryBatch, ThingBatch
from diptych.models.reasoning.relational_block import ForgetBiasLSTM, xavier_

Edges = Literal["rules", "full"]
CONV_LAYERS, CONV_WIDTH, CONV_SIDE = 5, 128, 128
"""Channels of the network for pictures of objects: 128 pixels per side become 4 x 4 positions with 128 features."""


@dataclass(frozen=True, slots=True)
class GraphInputs:
    """Nodes and edges as input of message passing; see `RelationalBlock.forward`."""

    node_BND: Tensor
    edge_E2: Tensor
    edge_BEF: Tensor | None
    exists_BN: Tensor | None = None


class GridEncoder(nn.Module):
    """Encoder of Sudoku: embeddings of a cell's digit, row and column. Edges join cells that exclude each other ("rules"),
    or all cells ("full"); their single feature is zero, as released.
    """

    edge_width = 1

    def __init__(self, form: ProblemForm, embedding: int, edges: Edges) -> None:
        super().__init__()
        side, cells = form.side, form.side**2
        self.digit = nn.Embedding(side + 1, embedding)
        self.row, self.column = nn.Embedding(side, embedding), nn.Embedding(side, embedding)
        xavier_(self)
        self.width, self.nodes = 3 * embedding, cells
        self.edge_E2: Tensor
        pairs = sudoku_rules(side).edges if edges == "rules" else [(i, j) for i in range(cells) for j in range(cells) if i != j]
        self.register_buffer("edge_E2", torch.tensor(pairs), persistent=False)

    def forward(self, batch: GridBatch) -> GraphInputs:
        cell_BN = batch.cell_BN
        cell_N = torch.arange(self.nodes, device=cell_BN.device)
        side = self.row.num_embeddings
        place_ND = torch.cat((self.row(cell_N // side), self.column(cell_N % side)), -1)
        node_BND = torch.cat((self.digit(cell_BN), place_ND.expand(len(cell_BN), -1, -1)), -1)
        return GraphInputs(node_BND, self.edge_E2, node_BND.new_zeros(1, 1, 1))


class StoryEncoder(nn.Module):
    """Encoder of stories: a fact is encoded by an LSTM over its words, its one-hot position, and an LSTM over the question.

    The encoded question is also the feature of every edge. Every fact sends messages to every fact, including itself.
    """

    def __init__(self, form: ProblemForm, embedding: int) -> None:
        super().__init__()
        self.positions = 2 * form.facts
        self.words = nn.Embedding(len(form.words), embedding)
        xavier_(self)
        self.fact, self.question = ForgetBiasLSTM(embedding, embedding), ForgetBiasLSTM(embedding, embedding)
        self.width, self.edge_width = 2 * embedding + self.positions, embedding

    def forward(self, batch: StoryBatch) -> GraphInputs:
        rows, nodes = batch.exists_BN.shape
        fact_BND = self.fact.read(self.words(batch.word_BNL.flatten(0, 1)), batch.length_BN.flatten()).unflatten(0, (rows, nodes))
        position_BND = F.one_hot(batch.position_BN, self.positions).to(fact_BND)
        question_B1D = self.question.read(self.words(batch.question_BL), batch.question_length_B)[:, None]
        node_BND = torch.cat((fact_BND, position_BND, question_B1D.expand(-1, nodes, -1)), -1)
        return GraphInputs(node_BND, every_pair(nodes, node_BND.device), question_B1D, batch.exists_BN)


class ThingEncoder(nn.Module):
    """Encoder of jumps between objects: an object is its position, colour and marker, with the question.

    With `pixels`, a node is a position of a convolutional map of the picture. The question is the feature of every edge.
    """

    def __init__(self, form: ProblemForm, *, pixels: bool) -> None:
        super().__init__()
        self.edge_width = form.question_width
        self.convolutions: nn.Sequential | None = None
        width = 2 + len(form.names)
        if pixels:
            widths = [3] + [CONV_WIDTH] * CONV_LAYERS
            layers: list[Any] = []
            for i, o in itertools.pairwise(widths):
                layers += [nn.Conv2d(i, o, 3, stride=2, padding=1), nn.ReLU(), nn.BatchNorm2d(o)]
            self.convolutions, width = nn.Sequential(*layers), CONV_WIDTH
        self.width = width + form.question_width

    def forward(self, batch: ThingBatch) -> GraphInputs:
        node_BND, exists_BN = batch.thing_BNF, batch.exists_BN
        if self.convolutions is not None:
            assert batch.image_BCHW is not None
            node_BND = self.convolutions(batch.image_BCHW).flatten(2).mT
            exists_BN = torch.ones(node_BND.shape[:2], dtype=torch.bool, device=node_BND.device)
        question_B1D = batch.question_BQ.to(node_BND)[:, None]
        node_BND = torch.cat((node_BND, question_B1D.expand(-1, node_BND.shape[1], -1)), -1)
        return GraphInputs(node_BND, every_pair(node_BND.shape[1], node_BND.device), question_B1D, exists_BN)


def every_pair(nodes: int, device: torch.device) -> Tensor:
    """Return every ordered pair of nodes, including a node with itself, int64 [N * N, 2]."""
    node_N = torch.arange(nodes, device=device)
    return torch.cartesian_prod(node_N, node_N).reshape(-1, 2)
