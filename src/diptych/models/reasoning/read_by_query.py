"""Cross-attention of queries that also returns the attention weights.

Letters: B batch, Q queries, S source, D width, H heads, E width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError


class QueryAttention(nn.Module):
    """Multi-head attention of queries over a source of the same width, without residual and norm (BART, 1910.13461).

    dropout  of the weights in training
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(
        self, query_BQD: Tensor, source_BSD: Tensor, exists_BS: Tensor | None = None, *, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return attended values [B, Q, D] and the weights before dropout, [B, H, Q, S].
        `exists_BS` is False at masked positions.
        """
        q_BHQE, k_BHSE, v_BHSE = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, given in ((self.query, query_BQD), (self.key, source_BSD), (self.value, source_BSD))
        )
        score_BHQS = q_BHQE @ k_BHSE.mT * q_BHQE.shape[-1] ** -0.5 / temperature
        if exists_BS is not None:
            score_BHQS = score_BHQS.masked_fill(~exists_BS[:, None, None], float("-inf"))
        weight_BHQS = score_BHQS.softmax(-1)
        read_BQD: Tensor = self.out((F.dropout(weight_BHQS, self.dropout, self.training) @ v_BHSE).transpose(1, 2).flatten(2))
        return read_BQD, weight_BHQS
