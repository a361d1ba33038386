"""Exchanged words as wrong texts against CLIP: who stands where."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.hard_texts import ClaimText, against_clip
from diptych.claims.claim import Claim
from diptych.recipes.contrastive.negclip import NegCLIP

KINDS = ("swapped_colours", "swapped_shapes", "swapped_things", "replaced", "another_relation", "order")


def claims() -> tuple[Claim, ...]:
    negclip = NegCLIP.tiny()
    return against_clip(
        negclip,
        replace(negclip, negatives="random_words"),
        metric="swapped",
        probe=ClaimText(
            "At equal steps and images, exchanged words as wrong texts give a higher accuracy where words are exchanged",
            "2210.01936, whose relation and attribution probes rise from 60 and 63 to 80 and 71",
            (*KINDS, "i2t_r@1", "t2i_r@1"),
        ),
    )
