"""Block prompts against the same BLIP without them."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.placed import Placed
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.grounding.ptp import PTP
from diptych.worlds.small_pairs import SIDE

PAIRS, STEPS, BATCH = 2000, 300, 32


def claims() -> tuple[Claim, ...]:
    ptp = replace(
        PTP.tiny(),
        image_tower="vit_micro",
        image_size=SIDE,
        width=32,
        text_width=48,
        text_layers=1,
        pieces=400,
        crop=(1.0, 1.0),
        steps=STEPS,
        batch_size=BATCH,
        queue=32,  # a copy that follows 300 steps has to follow fast, and what it said long ago is of little use
        momentum=0.9,
        alpha=0.0,
        lr=2e-3,
    )
    blip = replace(ptp, prompts="none")
    spatial = declare(
        slug="ptp",
        sentence="At equal steps and data, block prompts give a higher recall at 1 for captions that say where a thing is",
        source="2212.09737, zero-shot retrieval of PTP against its host without prompts",
        baseline=Arm("blip", Placed(blip, PAIRS), around(ptp.lr)),
        method=Arm("ptp", Placed(ptp, PAIRS), around(ptp.lr)),
        controls=(Arm("untrained", Placed(ptp, PAIRS, learns=False)),),
        metric="spatial/t2i_r@1",
        margins=0.03,
        equal_budget=("steps", "samples", "trained_parameters"),
        data=f"{PAIRS:,} rendered pictures of two shapes, captions without places, boxes known; retrieval among 300 by caption and block",
        reported=("block", "plain/t2i_r@1", "plain/i2t_r@1"),
    )
    return (spatial,)
