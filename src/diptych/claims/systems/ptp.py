"""Block prompts against the same BLIP and ViLT without them, and prompts that move with the picture against prompts that do not."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.placed import Placed, PlacedReadings
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.grounding.ptp import PTP
from diptych.recipes.grounding.ptp_vilt import PTPViLT
from diptych.worlds.small_pairs import SIDE

PAIRS, STEPS, READ_STEPS, BATCH = 2000, 300, 400, 32


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
    blip, flipped = replace(ptp, prompts="none"), replace(ptp, flip=True)
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
    moves = declare(
        slug="ptp",
        name="moves",
        kind="mechanism check",
        sentence="With flips, prompts that move with the picture teach blocks better than prompts of the picture as it is stored",
        source="the two loaders of sail-sg/ptp, of which the one in its guide writes the prompt before it flips",
        baseline=Arm("original", Placed(replace(flipped, prompts="original"), PAIRS), around(ptp.lr)),
        method=Arm("moved", Placed(flipped, PAIRS), around(ptp.lr)),
        controls=(Arm("untrained", Placed(flipped, PAIRS, learns=False)),),
        metric="block",
        margins=0.05,
        equal_budget=("steps", "samples", "trained_parameters"),
        data=spatial.data,
        reported=("spatial/t2i_r@1",),
    )
    prompted = replace(
        PTPViLT.tiny(),
        image_size=SIDE,
        patch=16,
        width=64,
        layers=2,
        text_length=24,
        text_places=24,
        pieces=400,
        steps=READ_STEPS,
        batch_size=BATCH,
        lr=2e-3,
    )
    alone = replace(prompted, prompts="none")
    vilt = declare(
        slug="ptp",
        name="vilt",
        sentence="At equal steps and data, block prompts give ViLT a higher recall at 1 for captions that say where a thing is",
        source="2212.09737, zero-shot retrieval of PTP-ViLT against ViLT",
        refuted=spatial.refuted,
        baseline=Arm("vilt", PlacedReadings(alone, PAIRS), around(prompted.lr)),
        method=Arm("ptp on vilt", PlacedReadings(prompted, PAIRS), around(prompted.lr)),
        controls=(Arm("untrained", PlacedReadings(prompted, PAIRS, learns=False)),),
        metric="spatial/t2i_r@1",
        margins=0.03,
        equal_budget=("steps", "samples", "trained_parameters"),
        data=f"{PAIRS:,} rendered pictures of two shapes, captions without places, boxes known; retrieval among 100 by caption and block",
        reported=("block", "plain/t2i_r@1", "plain/i2t_r@1"),
    )
    return spatial, moves, vilt
