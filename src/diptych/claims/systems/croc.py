"""Croc on pictures of two shapes: a stage that reconstructs replaced tokens against the same stage with captions alone."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.answered_pairs import PAIRS, TESTED, WORLD, AnsweredPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.bridges.croc import Croc

STEPS = 150


def claims() -> tuple[Claim, ...]:
    made = replace(Croc.tiny(), image_weights=WORLD, small_image_steps=800, steps=STEPS)
    captions = replace(made, replaced=0.0, reconstruction_weight=0.0, open="none")
    rates = around(made.lr)
    return (
        declare(
            slug="croc",
            sentence="After equally many steps a model whose middle stage reconstructs replaced image tokens answers more questions than "
            "one whose middle stage learns captions alone",
            source="2410.14332: reconstruction beside captions raises the mean of its benchmarks after instruction tuning",
            baseline=Arm("captions alone", AnsweredPairs(captions), rates),
            method=Arm("replaced and reconstructed", AnsweredPairs(made), rates),
            controls=(Arm("untrained", AnsweredPairs(made, learns=False)),),
            metric="accuracy",
            margins=0.03,
            data=f"{PAIRS:,} rendered images of two shapes with a caption and four questions each; {TESTED} of the same seed to test",
            reported=("accuracy/colour", "accuracy/shape"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
