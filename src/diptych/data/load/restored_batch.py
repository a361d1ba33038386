"""Batches with three versions of each text: complete, masked for an encoder, and masked for a decoder (LexLIP, 2302.02908).

Letters: B batch, L text tokens, M positions that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch


@dataclass(frozen=True, kw_only=True)
class RestoredBatch(PairBatch):
    """Pairs, and each text twice more with words hidden: from its encoder (own) and from the decoder that restores it (other)."""

    own_BL: Rows[Tensor]
    own_hidden_BL: Rows[Tensor]
    own_place_BM: Rows[Tensor]
    own_word_BM: Rows[Tensor]
    other_BL: Rows[Tensor]
    other_hidden_BL: Rows[Tensor]
    other_place_BM: Rows[Tensor]
    other_word_BM: Rows[Tensor]
