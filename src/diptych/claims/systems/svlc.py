"""One replaced word as a wrong text, and a paraphrase as a right one, against CLIP; the cost in retrieval."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.hard_texts import ClaimText, against_clip
from diptych.claims.claim import Claim
from diptych.recipes.contrastive.svlc import SVLC


def claims() -> tuple[Claim, ...]:
    svlc = replace(SVLC.tiny(), positives="analogies", data_words=True)
    return against_clip(
        svlc,
        replace(svlc, negatives="random_words", data_words=False),
        metric="replaced",
        probe=ClaimText(
            "At equal steps and images, replaced words and analogies give a higher accuracy where a word is another",
            "2211.11733, whose accuracy on VL-Checklist rises by up to 15 points",
            ("another_colour", "another_shape", "another_relation", "swapped", "order", "i2t_r@1", "t2i_r@1"),
        ),
        retrieval=ClaimText(
            "Replaced words and analogies leave the recall at 1 from text to image as CLIP has it",
            "2211.11733, whose accuracy on 21 zero-shot sets falls by little",
            ("i2t_r@1", "replaced"),
        ),
    )
