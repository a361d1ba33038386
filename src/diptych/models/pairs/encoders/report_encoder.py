"""Dual encoder of images and reports with a masked-language-model head (BioViL, 2204.09817).

Letters: B batch, N items, C channel, H W, L tokens, M masked words, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.tied_word_head import TiedWordHead
from diptych.models.towers.packaged.hf_text import TransformersText


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFeatures:
    """Features of a step; those that its phase does not use are None.

    word_NMV   logits of masked words, or an empty tensor [N, 0, V]
    text_ND    unit-norm, of the first text; other_ND of the second one; image_ND of the image
    scale      [1]: factor of similarities, fixed
    """

    word_NMV: Rows[Tensor]
    scale: Tensor
    text_ND: Embeddings[Tensor] | None = None
    other_ND: Embeddings[Tensor] | None = None
    image_ND: Embeddings[Tensor] | None = None


class ReportEncoder(nn.Module):
    """`encoder` with a BERT text tower, whose word embeddings the head shares.

    dropout  of every layer of the text tower; None: unchanged
    mask_id  the vocabulary's mask token; None: a learned vector is used
    """

    def __init__(self, encoder: DualEncoder, *, mask_id: int | None, dropout: float | None = None) -> None:
        super().__init__()
        tower = getattr(encoder.text_tower, "inner", encoder.text_tower)
        if not isinstance(tower, TransformersText):
            raise ConfigError(
                f"text tower {type(tower).__name__} has no table of words to guess from (expected bert_... or hf:FOLDER)"
            )
        self.encoder, self.mask_id = encoder, mask_id
        table = tower.embed
        self.words = TiedWordHead(table.embedding_dim, table.num_embeddings)
        self.mask_D = nn.Parameter(torch.randn(table.embedding_dim) * 0.02) if mask_id is None else None
        encoder.log_scale.requires_grad_(False)
        if dropout is not None:
            for module in tower.modules():
                if isinstance(module, nn.Dropout):
                    module.p = dropout

    @property
    def bert(self) -> TransformersText:
        """The text tower without its head."""
        tower = getattr(self.encoder.text_tower, "inner", self.encoder.text_tower)
        assert isinstance(tower, TransformersText)
        return tower

    def forward(
        self,
        masked_BL: Tensor,
        hidden_BL: Tensor,
        position_BM: Tensor,
        masked_mask_BL: Tensor,
        texts: tuple[tuple[Tensor, Tensor], ...] = (),
        image_BCHW: Tensor | None = None,
    ) -> ReportFeatures:
        """texts  ids and mask of up to two texts of each item to embed."""
        vectors = [self.encoder.encode_text(ids_BL, mask_BL) for ids_BL, mask_BL in texts]
        return ReportFeatures(
            word_NMV=self.guesses(masked_BL, hidden_BL, position_BM, masked_mask_BL),
            scale=self.encoder.log_scale.exp(),
            text_ND=vectors[0] if vectors else None,
            other_ND=vectors[1] if len(vectors) > 1 else None,
            image_ND=None if image_BCHW is None else self.encoder.encode_image(image_BCHW),
        )

    def guesses(self, masked_BL: Tensor, hidden_BL: Tensor, position_BM: Tensor, mask_BL: Tensor) -> Tensor:
        """Return logits [B, M, V] of the words at these positions."""
        tower = self.bert
        if self.mask_id is not None:
            state_BLD = tower(masked_BL.masked_fill(hidden_BL, self.mask_id), mask_BL).tokens_BPD
        else:
            assert self.mask_D is not None
            embedded_BLD = torch.where(hidden_BL[..., None], self.mask_D.to(tower.embed.weight), tower.embed(masked_BL))
            state_BLD = tower(embedded_BLD, mask_BL).tokens_BPD
        asked_BMD = state_BLD.gather(1, position_BM[..., None].expand(-1, -1, state_BLD.shape[-1]))
        logits: Tensor = self.words(asked_BMD, tower.embed.weight)
        return logits
