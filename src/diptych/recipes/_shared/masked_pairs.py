"""Batches of pairs whose texts are there twice: as they are, and with some words hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.masked_words import mask_words


@dataclass(frozen=True, kw_only=True)
class MaskedPairBatch(PairBatch):
    """Pairs, and each text once more with some words hidden (`data/text/tokens/masked_words.py`)."""

    masked_BL: Rows[Tensor]
    hidden_BL: Rows[Tensor]
    place_BM: Rows[Tensor]
    word_BM: Rows[Tensor]


def with_hidden_words(
    pairs: PairBatch, generators: Sequence[np.random.Generator], words: Tokenizer, *, share: float, each: bool
) -> MaskedPairBatch:
    """The pairs with a masked copy of every text; `generators` has one per row.

    each  every word is hidden by its own chance, the mark at the end among them; else exactly the share of each text's words
    """
    special = {words.pad_id, *words.prefix} | (set() if each else set(words.suffix))
    masked = mask_words(
        pairs.text_BL,
        pairs.text_mask_BL,
        generators,
        special=sorted(special),
        vocab_size=words.vocab_size,
        share=share,
        each=each,
    )
    return MaskedPairBatch(
        **{f.name: getattr(pairs, f.name) for f in fields(pairs)},
        masked_BL=masked.ids_BL,
        hidden_BL=masked.hidden_BL,
        place_BM=masked.place_BM,
        word_BM=masked.word_BM,
    )
