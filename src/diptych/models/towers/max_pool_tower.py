"""Tower with max pooling over projected tokens (UniPT, 2309.01420).

Letters: B batch, P tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.towers.outputs import Tower, TowerOutput


class MaxPoolTower(Tower):
    """Linear layer of width `out` on every token of `inner`, including the pooled token of an image,
    then the maximum over tokens.

    read_padding  the maximum includes padding, as in the released code, so a text's vector depends on its padding
    Tokens are those of `inner`. The vector is in the joint space: a dual encoder adds no further projection.
    """

    projects = True

    def __init__(self, inner: Tower, out: int, *, with_pooled: bool = False, read_padding: bool = False) -> None:
        super().__init__()
        self.inner, self.width = inner, out
        self.with_pooled, self.read_padding = with_pooled, read_padding
        self.project = nn.Linear(inner.token_width, out)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)
        self.image_size: Any = getattr(inner, "image_size", None)
        self.length: Any = getattr(inner, "length", None)

    @property
    def token_width(self) -> int:
        return self.inner.token_width

    @property
    def embed(self) -> nn.Embedding:
        """Return the table of token embeddings of a text tower."""
        table = getattr(self.inner, "embed", None)
        if not isinstance(table, nn.Embedding):
            raise ConfigError(f"{type(self.inner).__name__} has no table of words (expected a text tower)")
        return table

    def forward(self, *inputs: Any) -> TowerOutput:
        output = self.inner(*inputs)
        return TowerOutput(output.tokens_BPD, output.mask_BP, self.pooled(output))

    def pooled(self, output: TowerOutput) -> Tensor:
        """[B, out]."""
        x_BPD, mask_BP = self.projected(output)
        if not self.read_padding:
            x_BPD = x_BPD.masked_fill(~mask_BP[..., None], -torch.inf)
        return x_BPD.amax(1)

    def projected(self, output: TowerOutput) -> tuple[Tensor, Tensor]:
        """Return projected tokens [B, P, out] before max pooling, and their mask [B, P]; an image's pooled token is the last."""
        x_BPD, mask_BP = self.project(output.tokens_BPD), output.mask_BP
        if self.with_pooled:
            x_BPD = torch.cat([x_BPD, self.project(output.pooled_BD)[:, None]], 1)
            mask_BP = torch.cat([mask_BP, mask_BP.new_ones(len(mask_BP), 1)], 1)
        return x_BPD, mask_BP
