"""At a small batch the sigmoid loss is better than the softmax (Zhai et al., 2023, for batches below 16,384): heads on real clip art."""

from __future__ import annotations

from diptych.claims.cells.learned_pairs.clipart import ASKED, OnClipart, heads
from diptych.claims.claim import Arm, Claim, declare

STEPS, BATCH = 1600, 16
RATES = (1e-4, 3e-4, 1e-3)


def claims() -> tuple[Claim, ...]:
    softmax, sigmoid = (heads(STEPS, batch_size=BATCH, loss=loss) for loss in ("softmax", "sigmoid"))
    return (
        declare(
            slug="siglip",
            sentence=f"With batches of {BATCH}, the sigmoid loss gives a higher recall at 5 than CLIP's softmax",
            source="2303.15343, whose advantage is largest at small batches",
            baseline=Arm("softmax", OnClipart(softmax), RATES),
            method=Arm("sigmoid", OnClipart(sigmoid), RATES),
            controls=(Arm("untrained heads", OnClipart(sigmoid, learns=False)),),
            **ASKED,
        ),
    )
