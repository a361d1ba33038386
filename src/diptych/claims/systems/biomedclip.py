"""Does a text tower that reads 64 tokens find more than one that reads 32, where captions say a half of it late?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.long_captions import LongCaptions
from diptych.claims.cells.learned_pairs.pairs import TESTED, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.domains.biomedclip import BiomedCLIP

PAIRS, STEPS, BATCH = 4000, 200, 96
SHORT, LONG = 32, 64


def claims() -> tuple[Claim, ...]:
    long = sized_for(BiomedCLIP.tiny(), text_length=LONG, batch_size=BATCH, steps=STEPS, lr=2e-3)
    short = replace(long, text_length=SHORT)
    return (
        declare(
            slug="biomedclip",
            sentence=f"{LONG} tokens of context give a higher recall at 1 than {SHORT}, on captions that name one of two things late",
            source="2303.00915: 256 tokens in place of 77, since captions of figures are long",
            baseline=Arm(f"{SHORT} tokens", LongCaptions(short, PAIRS), around(short.lr)),
            method=Arm(f"{LONG} tokens", LongCaptions(long, PAIRS), around(long.lr)),
            controls=(Arm("untrained", LongCaptions(long, PAIRS, learns=False)),),
            metric="test/t2i_r@1",
            margins=0.02,
            data=f"{PAIRS:,} rendered pairs of two shapes, one named in the first sentence and one in the last of six; "
            f"retrieval among {TESTED} new ones",
            reported=("test/i2t_r@1", "tokens"),
            tuning_seeds=(0,),
        ),
    )
