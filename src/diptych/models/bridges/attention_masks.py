"""Attention masks of rows with images and words, for language models that take a mask per pair of places.

Letters: B batch, L positions (queries), M positions (keys).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.data.text.prompts.layout import Layout

Open = Literal["none", "image", "prefix"]
"""Bidirectional part of the mask: nothing, the positions of an image among themselves, or everything before the first answer."""


def attention_mask(layout: Layout, open: Open = "prefix") -> Tensor:
    """Attention mask, bool [B, 1, L, M]: True where a query may attend to a key. transformers takes it as `attention_mask`.

    open  in addition to causal attention: "image": image positions of a row attend to each other; "prefix": every position
          attends to everything before the first answer (prefix language modelling, T5 1910.10683; Croc, 2410.14332). A row
          without an answer is a prefix as a whole
    Padding on either side is never attended to and attends only to itself, so that no row of the mask is empty. The mask is bool,
    not float: floats 0 and 1 would be added to the scores and mask nothing.
    """
    if open not in get_args(Open):
        raise ConfigError(f"open is {open!r} (expected {' | '.join(get_args(Open))})")
    length = layout.id_BL.shape[1]
    place_L = torch.arange(length, device=layout.id_BL.device)
    read_BLM = (place_L[:, None] >= place_L).expand(len(layout), -1, -1)
    if open == "image":
        read_BLM = read_BLM | (layout.slot_BL[:, :, None] & layout.slot_BL[:, None])
    if open == "prefix":
        first_B = torch.where(layout.answer_BL, place_L, length).amin(1)
        read_BLM = read_BLM | (place_L < first_B[:, None])[:, None]
    read_BLM = read_BLM & layout.mask_BL[:, None] & layout.mask_BL[:, :, None]
    alone_LM = torch.eye(length, dtype=torch.bool, device=layout.id_BL.device)
    return (read_BLM | (alone_LM & ~layout.mask_BL[:, :, None]))[:, None]
