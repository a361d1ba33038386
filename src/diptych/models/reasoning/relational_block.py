"""Recurrent message passing between the nodes of a graph with shared weights (Recurrent Relational Networks, Palm et al., 2018,
arXiv 1711.08028).

Letters: B batch, N nodes, E edges, D width, F width of an edge's features, T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.layers.mlp import MLP

HIDDEN_LAYERS = 3


class ForgetBiasLSTM(nn.Module):
    """One LSTM step with a single bias and 1 added to the input of the forget gate, as in TensorFlow's `LSTMCell`.

    The rows of `gates.weight` are those of input gate, new value, forget gate and output gate (i, j, f, o).
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Linear(width + hidden, 4 * hidden)
        xavier_(self)

    def forward(self, x_ND: Tensor, h_ND: Tensor, c_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the cell state after the step."""
        i_ND, j_ND, f_ND, o_ND = self.gates(torch.cat((x_ND, h_ND), -1)).chunk(4, -1)
        c_ND = (f_ND + 1.0).sigmoid() * c_ND + i_ND.sigmoid() * j_ND.tanh()
        return o_ND.sigmoid() * c_ND.tanh(), c_ND

    def read(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        """Return the output after the last of `length_B` tokens, [B, hidden]; zero for none."""
        h_BD = c_BD = x_BLD.new_zeros(len(x_BLD), self.hidden)
        for token in range(x_BLD.shape[1]):
            new_h, new_c = self(x_BLD[:, token], h_BD, c_BD)
            on_B1 = (token < length_B)[:, None]
            h_BD, c_BD = torch.where(on_B1, new_h, h_BD), torch.where(on_B1, new_c, c_BD)
        return h_BD


class RelationalBlock(nn.Module):
    """Iterated message passing. x0 = pre(node); in each step m_ij = message(h_i, h_j, e_ij), u_j = post(sum_i m_ij, x0_j) and
    h_j = LSTM(u_j); h starts as x0 and the LSTM's own state as zero. Each MLP has three ReLU layers and a linear one.

    A message uses the LSTM's output of the step before. The weights do not depend on the number of steps.

    keep  share of the messages that are kept in training and scaled up; 1 in the paper
    """

    def __init__(self, width: int, hidden: int, *, edge_width: int = 0, keep: float = 1.0) -> None:
        super().__init__()
        self.hidden, self.keep = hidden, keep
        inner = [hidden] * (HIDDEN_LAYERS + 1)
        self.pre = MLP([width, *inner])
        self.message = MLP([2 * hidden + edge_width, *inner])
        self.post = MLP([2 * hidden, *inner])
        xavier_(self)
        self.cell = ForgetBiasLSTM(hidden, hidden)

    @property
    def penalised(self) -> list[Tensor]:
        """Weights of the three MLPs without biases, which the published loss penalises."""
        return [layer.weight for part in (self.pre, self.message, self.post) for layer in part if isinstance(layer, nn.Linear)]

    def forward(
        self, node_BND: Tensor, edge_E2: Tensor, edge_BEF: Tensor | None, *, steps: int, exists_BN: Tensor | None = None
    ) -> Tensor:
        """Return the state of every node after every step, [T, B, N, D].

        edge_E2    int64, source and target of each message, the same in all graphs of the batch
        edge_BEF   features of the edges; None if they have none
        exists_BN  False for padding nodes, which neither send nor receive. None: all exist
        """
        source_E, target_E = edge_E2.unbind(1)
        kept_BE1 = None if exists_BN is None else (exists_BN[:, source_E] & exists_BN[:, target_E])[..., None].to(node_BND)
        x0_BND: Tensor = self.pre(node_BND)
        h_BND, c_BND = x0_BND, torch.zeros_like(x0_BND)
        recurrent_BND = torch.zeros_like(x0_BND)
        states = []
        for _ in range(steps):
            message_BED = self._messages(h_BND, source_E, target_E, edge_BEF)
            if self.keep < 1 and self.training:
                message_BED = message_BED * F.dropout(torch.ones_like(message_BED[..., :1]), 1 - self.keep)
            if kept_BE1 is not None:
                message_BED = message_BED * kept_BE1
            received_BND = torch.zeros_like(x0_BND).index_add(1, target_E, message_BED)
            h_BND, c_BND = self.cell(self.post(torch.cat((received_BND, x0_BND), -1)), recurrent_BND, c_BND)
            recurrent_BND = h_BND
            states.append(h_BND)
        return torch.stack(states)

    def _messages(self, h_BND: Tensor, source_E: Tensor, target_E: Tensor, edge_BEF: Tensor | None) -> Tensor:
        """message([h_i, h_j, e_ij]); the first layer is linear, so it is applied to nodes before they are paired,
        which costs less.
        """
        first, *rest = self.message
        assert isinstance(first, nn.Linear)
        from_DD, to_DD, edge_DF = first.weight.split((self.hidden, self.hidden, first.in_features - 2 * self.hidden), 1)
        x_BED = F.linear(h_BND, from_DD)[:, source_E] + F.linear(h_BND, to_DD, first.bias)[:, target_E]
        if edge_BEF is not None:
            x_BED = x_BED + F.linear(edge_BEF, edge_DF)
        for layer in rest:
            x_BED = layer(x_BED)
        return x_BED


def xavier_(module: nn.Module) -> None:
    """Initialise every linear layer and table with uniform Glorot weights and zero biases, as in the published code."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.xavier_uniform_(part.weight)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
