"""Regions that answer tokens: what a grounding detector predicts, and what is true.

Letters: B images, S layers, Q queries, L tokens (padded), G true boxes (padded).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenRegions:
    """What a detector predicts after each of its layers (the last is what inference reads).

    box_BSQ4           cxcywh in 0..1 of the image without its padding
    token_logit_BSQL   raw, one sigmoid a token
    mask_BL            True at real tokens, marks among them
    """

    box_BSQ4: Tensor
    token_logit_BSQL: Tensor
    mask_BL: Tensor


@dataclass(frozen=True, slots=True)
class TokenTargets:
    """What is true: boxes, and which tokens of the image's text each answers to.

    box_BG4        cxcywh in 0..1 of the image; anything on padding
    positive_BGL   bool; a box none of whose tokens is left (the text was cut) has an empty row
    valid_BG       False on padding
    """

    box_BG4: Tensor
    positive_BGL: Tensor
    valid_BG: Tensor
