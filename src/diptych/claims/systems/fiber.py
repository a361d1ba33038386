"""FIBER's gates inside both towers against layers on top of them: what they answer."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.asked_pairs import TESTED, AskedPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.grounding.fiber import FIBER
from diptych.worlds.small_pairs import SIDE

PAIRS, STEPS, BATCH = 3000, 300, 64


def claims() -> tuple[Claim, ...]:
    fiber = replace(
        FIBER.tiny(),
        caption=0.0,
        mlm=0.0,
        itm=0.0,
        questions=1.0,
        image_size=SIDE,
        swin_patch=8,
        swin_width=48,
        swin_depths=(2, 2),
        swin_heads=(2, 4),
        swin_window=6,
        text_width=64,
        text_layers=3,
        text_length=16,
        fused_layers=2,
        width=64,
        pieces=320,
        queue=0,
        batch_size=BATCH,
        steps=STEPS,
        lr=2e-3,
        warmup=30.0,
    )
    top = replace(fiber, fusion="top", top_layers=1)
    rates = around(fiber.lr)
    answers = declare(
        slug="fiber",
        sentence="At equal steps and losses, gates inside both towers answer more questions than a layer of co-attention on top",
        source="2206.07643, ablation of where to fuse: VQA v2 of fusion in the backbone against layers on top",
        baseline=Arm("top", AskedPairs(top, PAIRS), rates),
        method=Arm("fiber", AskedPairs(fiber, PAIRS), rates),
        controls=(Arm("untrained", AskedPairs(fiber, PAIRS, learns=False)),),
        metric="accuracy",
        margins=0.02,
        data=f"{PAIRS:,} rendered pictures of two shapes with captions and questions, {TESTED} of the same seed to test",
        reported=("accuracy/colour", "accuracy/shape", "accuracy/count", "accuracy/there", "t2i_r@1", "i2t_r@1"),
        tuning_seeds=(0,),
    )
    return (answers,)
