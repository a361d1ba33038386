"""A text read piece by piece: no word reads across a full stop, and places count from the start of its piece (Grounding DINO, 2303.05499,
"sub-sentence level").

Letters: B texts, L tokens, N pieces of all texts, W tokens of the longest piece, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.data.text.tokenize import Tokenizer
from diptych.models.towers.outputs import Tower


def piece_end_ids(words: Tokenizer) -> tuple[int, ...]:
    """Ids that end a piece: the marks of a text and what a full stop is written as.

    Raises ConfigError for a tokenizer that has none of its own.
    """
    room = 8 + len(words.prefix) + len(words.suffix)
    row = words.encode(["a. "], room)
    ids = row.ids_BL[0, : int(row.mask_BL.sum())].tolist()[len(words.prefix) : -len(words.suffix)]
    stops = {one for one in ids if words.decode([one]).strip() == "."}
    if not stops:
        raise ConfigError(
            "reads is 'pieces' and the tokenizer has no full stop of its own (expected reads 'whole', or another tokenizer)"
        )
    return tuple(sorted({*words.prefix, *words.suffix, *stops}))


def encode_pieces(tower: Tower, text_BL: Tensor, mask_BL: Tensor, ends: Sequence[int]) -> Tensor:
    """token_BLD as `tower` gives them for each piece alone; 0 at padding.

    ends   ids that a piece ends with, itself in it (marks of the text and full stops, as published); what follows is the next piece
    """
    end_BL = torch.isin(text_BL, torch.tensor(list(ends), device=text_BL.device)) & mask_BL
    # The number of ends before a token says which piece it is of.
    piece_BL = end_BL.cumsum(1) - end_BL.long()
    row_T, place_T = mask_BL.nonzero(as_tuple=True)
    key_T = row_T * text_BL.shape[1] + piece_BL[row_T, place_T]
    _, number_T, length_N = torch.unique_consecutive(key_T, return_inverse=True, return_counts=True)
    start_N = length_N.cumsum(0) - length_N
    within_T = torch.arange(len(key_T), device=text_BL.device) - start_N[number_T]
    part_NW = text_BL.new_zeros(len(length_N), int(length_N.max()))
    real_NW = torch.zeros_like(part_NW, dtype=torch.bool)
    part_NW[number_T, within_T], real_NW[number_T, within_T] = text_BL[row_T, place_T], True
    token_NWD: Tensor = tower(part_NW, real_NW).tokens_BPD
    token_BLD = token_NWD.new_zeros(*text_BL.shape, token_NWD.shape[-1])
    out_BLD: Tensor = token_BLD.index_put((row_T, place_T), token_NWD[number_T, within_T])
    return out_BLD
