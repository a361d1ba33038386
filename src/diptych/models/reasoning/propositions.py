"""Vectors of the simple propositions of a long text (NDCR, Li et al., 2023, arXiv 2305.02265).

Letters: B batch, L tokens, Q queries, P propositions, E width of the text, D width of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.layers.post_norm import PostNormBlock
from diptych.models.reasoning.read_by_query import QueryAttention
from diptych.models.towers.outputs import Tower

QUERIES = 10
"""Number of learned queries; a text with P propositions uses the first P."""
DROPOUT = 0.1


class PropositionLayer(nn.Module):
    """Post-norm layer: causal self-attention, cross-attention to the text, then an MLP.

    minus  the queries are subtracted from the cross-attention's output, as in the released code, instead of added
    """

    def __init__(self, width: int, heads: int, mlp_width: int, *, minus: bool) -> None:
        super().__init__()
        self.block = bert_block(width, heads, mlp_width)
        self.read = QueryAttention(width, heads, dropout=DROPOUT)
        self.sign = -1.0 if minus else 1.0

    def forward(self, x_BQE: Tensor, token_BLE: Tensor, exists_BL: Tensor) -> Tensor:
        block = self.block
        attended_BQE = block.attention(x_BQE, causal=True)
        x_BQE = block.norm_1(x_BQE + F.dropout(attended_BQE, DROPOUT, self.training))
        x_BQE = self.read(x_BQE, token_BLE, exists_BL)[0] + self.sign * x_BQE
        inner_BQE = block.mlp_out(F.gelu(block.mlp_in(x_BQE)))
        out_BQE: Tensor = block.norm_2(x_BQE + F.dropout(inner_BQE, DROPOUT, self.training))
        return out_BQE


class PropositionGenerator(nn.Module):
    """Text tower, learned queries that attend to its tokens, and a projection into the space of the pictures."""

    def __init__(self, tower: Tower, width: int, *, layers: int, heads: int, mlp_width: int, minus: bool = False) -> None:
        super().__init__()
        self.tower = tower
        inner = tower.token_width
        self.queries = nn.Embedding(QUERIES, inner)
        self.layers = nn.ModuleList(PropositionLayer(inner, heads, mlp_width, minus=minus) for _ in range(layers))
        self.into_pictures = nn.Linear(inner, width)

    def forward(self, text_BL: Tensor, mask_BL: Tensor, propositions: int) -> Tensor:
        """Return the outputs of the first `propositions` queries [B, P, D], which later ones do not affect.
        Start and end tokens are ignored.
        """
        tokens = self.tower(text_BL, mask_BL)
        return self.propose(tokens.tokens_BPD, inner_tokens(tokens.mask_BP), propositions)

    def propose(self, token_BLE: Tensor, exists_BL: Tensor, propositions: int) -> Tensor:
        """As `forward`, from the tokens of a text; each row has at least one."""
        x_BQE = self.queries.weight[:propositions].expand(len(token_BLE), -1, -1)
        for layer in self.layers:
            x_BQE = layer(x_BQE, token_BLE, exists_BL)
        proposition_BPD: Tensor = self.into_pictures(x_BQE)
        return proposition_BPD


def inner_tokens(mask_BL: Tensor) -> Tensor:
    """Return the mask without the first and the last token of each text; texts of at most two tokens keep theirs."""
    place_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    first_B = mask_BL.int().argmax(1)
    last_B = torch.where(mask_BL, place_L, -1).amax(1)
    inner_BL = mask_BL & (place_L > first_B[:, None]) & (place_L < last_B[:, None])
    return torch.where(inner_BL.any(1, keepdim=True), inner_BL, mask_BL)


def bert_block(width: int, heads: int, mlp_width: int) -> PostNormBlock:
    """Return a BERT layer with 0.1 dropout and PyTorch's initialisation of linear layers, as in the released code."""
    block = PostNormBlock(width, heads, mlp_width=mlp_width, dropout=DROPOUT)
    for part in block.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
    return block
