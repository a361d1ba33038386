"""Graph attention (Velickovic et al., 2018, 1710.10903).  Letters: V nodes, H heads, D width, E width of a head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GraphAttention(nn.Module):
    """Each node reads the nodes that point to it, and itself: the layer GATConv of PyTorch Geometric, on a dense graph.

    heads    their outputs are joined, or averaged with `joined` False
    dropout  of the attention's shares
    """

    def __init__(self, width: int, out: int, *, heads: int = 1, joined: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.joined, self.dropout = heads, joined, dropout
        self.linear = nn.Linear(width, heads * out, bias=False)
        self.source_HE, self.target_HE = nn.Parameter(torch.empty(heads, out)), nn.Parameter(torch.empty(heads, out))
        self.bias = nn.Parameter(torch.zeros(heads * out if joined else out))
        for weight in (self.linear.weight, self.source_HE, self.target_HE):
            nn.init.xavier_uniform_(weight)

    def forward(self, x_VD: Tensor, edges_VV: Tensor) -> Tensor:
        """`edges_VV` counts the edges into the first node from the second, with one from each node to itself (`edge_counts`)."""
        x_VHE = self.linear(x_VD).unflatten(-1, (self.heads, -1))
        into_VH, from_VH = (x_VHE * self.target_HE).sum(-1), (x_VHE * self.source_HE).sum(-1)
        score_VVH = F.leaky_relu(into_VH[:, None] + from_VH[None], 0.2) + edges_VV.to(x_VD).log()[..., None]
        share_VVH = F.dropout(score_VVH.softmax(1), self.dropout, self.training)
        out_VHE = torch.einsum("vwh,whe->vhe", share_VVH, x_VHE)
        return (out_VHE.flatten(1) if self.joined else out_VHE.mean(1)) + self.bias


def edge_counts(count: int, edges: Tensor) -> Tensor:
    """float32 [V, V] of edges [M, 2] from the first node to the second, self-loops exactly once."""
    counts_VV = torch.zeros(count, count)
    if len(edges):
        counts_VV.index_put_((edges[:, 1], edges[:, 0]), torch.ones(len(edges)), accumulate=True)
    return counts_VV.fill_diagonal_(1.0)
