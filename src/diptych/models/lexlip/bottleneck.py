"""LexLIP's first phase: a half-masked caption is reconstructed from the term weights of a picture or text.

Letters: B batch, N items, C channel, H W, L tokens, M J masked positions of the encoder's and of the decoder's text, D width,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.post_norm import PostNormBlock
from diptych.models.layers.transformer import l2_normalise
from diptych.models.lexlip.lexical_encoder import LexicalEncoder, lexical_weights
from diptych.models.pairs.matching.fusion_reader import word_table
from diptych.models.towers.outputs import Tower


@dataclass(frozen=True, kw_only=True, slots=True)
class BottleneckOutput:
    """image_NV, text_NV   unit-norm term weights of the picture and the whole text
    own_word_NMV         the text encoder's logits of its masked words
    image_word_NJV       the decoder's logits from the picture's term weights
    text_word_NJV        the decoder's logits from the term weights of the encoder's masked text
    """

    image_NV: Embeddings[Tensor]
    text_NV: Embeddings[Tensor]
    own_word_NMV: Rows[Tensor]
    image_word_NJV: Rows[Tensor]
    text_word_NJV: Rows[Tensor]


class BottleneckEncoder(nn.Module):
    """`LexicalEncoder` with a weak decoder that reconstructs captions from its term weights.

    The bottleneck is softmax(max-pooled logits) times the table of word vectors, which gets no gradient from it.
    It replaces the start token's vector in the decoder's input; the decoder's `layers` blocks are BERT's,
    its head is that of the text encoder.

    dropout  of the decoder's blocks
    A learned vector replaces masked words, unless the vocabulary has a mask token (`mask_token` True: no vector is created).
    """

    def __init__(
        self, encoder: LexicalEncoder, *, layers: int, heads: int, dropout: float = 0.0, mask_token: bool = False
    ) -> None:
        super().__init__()
        width, table = encoder.text_tower.token_width, word_table(encoder.text_tower)
        if table.embedding_dim != width:
            raise ConfigError(
                f"words of {table.embedding_dim} dimensions do not fit texts with vectors of {width} (expected equal widths)"
            )
        self.encoder = encoder
        self.mask_D = None if mask_token else nn.Parameter(torch.randn(width) * 0.02)
        self.decoder = nn.ModuleList(PostNormBlock(width, heads, mlp_width=4 * width, dropout=dropout) for _ in range(layers))

    def forward(
        self,
        image_BCHW: Tensor,
        text_BL: Tensor,
        text_mask_BL: Tensor,
        own: tuple[Tensor, Tensor, Tensor],
        other: tuple[Tensor, Tensor, Tensor],
    ) -> BottleneckOutput:
        """`own` and `other` are the masked texts of the encoder and of the decoder.

        Each has ids [B, L], the positions of masks [B, L] (bool), and the positions to predict [B, M].
        """
        encoder = self.encoder
        image_peak_NV, _ = encoder.image_peaks(image_BCHW)
        own_x_BLD = encoder.text_tower(self._words(*own[:2]), text_mask_BL).tokens_BPD
        own_peak_NV, _ = encoder.text_head.peaks(own_x_BLD, text_mask_BL)
        placed_BLD = with_positions(encoder.text_tower, self._words(*other[:2]))
        return BottleneckOutput(
            image_NV=l2_normalise(lexical_weights(image_peak_NV)),
            text_NV=encoder.encode_text(text_BL, text_mask_BL),
            own_word_NMV=encoder.text_head(_at(own_x_BLD, own[2])),
            image_word_NJV=self._restored(image_peak_NV, placed_BLD, text_mask_BL, other[2]),
            text_word_NJV=self._restored(own_peak_NV, placed_BLD, text_mask_BL, other[2]),
        )

    def bottleneck(self, peak_NV: Tensor) -> Tensor:
        """Return the mean of all word vectors [N, D], weighted by the softmax of the max-pooled logits."""
        table_VD = word_table(self.encoder.text_tower).weight.detach()
        wide_NV = peak_NV.to(torch.promote_types(peak_NV.dtype, torch.float32))
        return wide_NV.softmax(-1).to(table_VD.dtype) @ table_VD

    def _restored(self, peak_NV: Tensor, placed_BLD: Tensor, mask_BL: Tensor, place_BJ: Tensor) -> Tensor:
        first_B1D = self.bottleneck(peak_NV)[:, None]
        x_BLD = torch.cat([first_B1D.to(placed_BLD.dtype), placed_BLD[:, 1:]], 1)
        for block in self.decoder:
            x_BLD = block(x_BLD, mask_BL)
        logit_BJV: Tensor = self.encoder.text_head(_at(x_BLD, place_BJ))
        return logit_BJV

    def _words(self, ids_BL: Tensor, hidden_BL: Tensor) -> Tensor:
        """Return word vectors [B, L, D] with the mask's vector in masked positions."""
        word_BLD: Tensor = word_table(self.encoder.text_tower)(ids_BL)
        return word_BLD if self.mask_D is None else torch.where(hidden_BL[..., None], self.mask_D.to(word_BLD.dtype), word_BLD)


def with_positions(tower: Tower, word_BLD: Tensor) -> Tensor:
    """Return the input of a text tower's first block: word embeddings plus positions."""
    if hasattr(tower, "position_LD"):
        return word_BLD + cast(Tensor, tower.position_LD)[: word_BLD.shape[1]]
    embeddings: Any = getattr(getattr(tower, "net", None), "embeddings", None)
    if embeddings is None:
        raise ConfigError(f"{type(tower).__name__} has no known input embeddings (expected one of our text towers, or BERT's)")
    embedded_BLD: Tensor = embeddings(inputs_embeds=word_BLD)
    return embedded_BLD


def _at(x_BLD: Tensor, place_BM: Tensor) -> Tensor:
    return x_BLD.gather(1, place_BM[..., None].expand(-1, -1, x_BLD.shape[2]))
