"""Guesses hidden words of a text from its other words and a picture's vector (PLIP, 2305.08386).

Letters: B batch, L tokens, M positions that are asked for, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.transformer import Transformer
from diptych.models.pairs.matching.fusion_reader import word_table
from diptych.models.towers.outputs import Tower


class AttributePredictor(nn.Module):
    """The text tower's vectors of the words, each with the picture's vector added, through `layers` blocks of self-attention, then one
    linear layer to the vocabulary.

    mask_id  the vocabulary's own token for hidden words; None: a learned vector stands in
    """

    def __init__(self, text_tower: Tower, *, layers: int, heads: int, mask_id: int | None = None) -> None:
        super().__init__()
        table, width = word_table(text_tower), text_tower.token_width
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.mask_id = mask_id
        self.mask_D = nn.Parameter(torch.randn(table.embedding_dim) * 0.02) if mask_id is None else None
        self.blocks = Transformer(width, layers, heads)
        self.words = nn.Linear(width, table.num_embeddings)

    def forward(
        self, text_tower: Tower, masked_BL: Tensor, hidden_BL: Tensor, mask_BL: Tensor, image_BD: Tensor, place_BM: Tensor
    ) -> Tensor:
        """Logits [B, M, V] over the words, at the places that are asked for."""
        if self.mask_id is not None:
            given: Tensor = masked_BL.masked_fill(hidden_BL, self.mask_id)
        else:
            assert self.mask_D is not None
            table = word_table(text_tower)
            given = torch.where(hidden_BL[..., None], self.mask_D.to(table.weight), table(masked_BL))
        x_BLD = text_tower(given, mask_BL).tokens_BPD + image_BD[:, None]
        x_BLD = self.blocks(x_BLD, mask_BL)
        logit_BMV: Tensor = self.words(x_BLD.gather(1, place_BM[..., None].expand(-1, -1, x_BLD.shape[2])))
        return logit_BMV
