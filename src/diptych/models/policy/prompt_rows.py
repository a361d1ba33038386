"""Tokenized prompts, padded on the left.  Letters: N rows, P tokens per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from diptych.models.bridges.language_model import LanguageVocabulary

Truncate = Literal["left", "right"]
"""Which end of a prompt that is too long is truncated."""


def prompt_rows(
    prompts: Sequence[str], words: LanguageVocabulary, *, length: int = 0, truncate: Truncate = "left"
) -> tuple[Tensor, Tensor]:
    """Return ids and mask [N, P] of prompts with the tokenizer's special tokens; an empty prompt of a decoder is the end token.

    length  P; shorter rows are padded, longer ones truncated at the `truncate` end, special tokens kept; 0: that of the longest
    """
    marks = len(words.start_ids) + len(words.close_ids)
    room = length - marks if length else 0
    rows = []
    for prompt in prompts:
        ids = words.pieces(prompt)
        if length and len(ids) > room:
            ids = ids[:room] if truncate == "right" else ids[len(ids) - room :]
        row = [*words.start_ids, *ids, *words.close_ids]
        rows.append(row or [words.end_id])
    width = length or max(map(len, rows))
    ids_NP = torch.full((len(rows), width), words.pad_id, dtype=torch.int64)
    there_NP = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids_NP[number, width - len(row) :] = torch.tensor(row)
        there_NP[number, width - len(row) :] = True
    return ids_NP, there_NP
