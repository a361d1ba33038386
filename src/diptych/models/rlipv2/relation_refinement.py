"""Refinement head of a relation detector: message passing between pairs (Recurrent Relational Networks, Palm et al., 2018,
arXiv 1711.08028).

Letters: B images, S decoder layers, Q pairs, D width, T steps, R relation texts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.models.reasoning.relational_block import RelationalBlock


class RelationRefinement(nn.Module):
    """Message passing between all pairs of an image for `steps` steps, with predictions after each step.

    A step's output is the decoder's content plus a linear map of the pair's state, which starts at zero: initially nothing
    changes. `steps` may be raised after training.
    """

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.block = RelationalBlock(width, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, pair_BQD: Tensor, exists_BQ: Tensor | None = None) -> Tensor:
        """Return contents after every step [B, T, Q, D]. exists_BQ: False for padding slots."""
        pairs = torch.arange(pair_BQD.shape[1], device=pair_BQD.device)
        edge_E2 = torch.cartesian_prod(pairs, pairs)
        edge_E2 = edge_E2[(pairs[:, None] != pairs).flatten()]
        state_TBQD = self.block(pair_BQD, edge_E2, None, steps=self.steps, exists_BN=exists_BQ)
        refined_BTQD: Tensor = pair_BQD[:, None] + self.out(state_TBQD).transpose(0, 1)
        return refined_BTQD


def repeated_last(layers_BS: Tensor, steps: int) -> Tensor:
    """Repeat the last of S layers, without gradient, to [B, S + steps, ...]: outputs that a refinement head does not change."""
    last_BS = layers_BS[:, -1:].detach().expand(-1, steps, *layers_BS.shape[2:])
    return torch.cat((layers_BS, last_BS), 1)
