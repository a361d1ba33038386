"""LLaVA on pictures of two shapes: does a stage for the projector help, when dialogues follow in any case?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.answered_pairs import PAIRS, TESTED, WORLD, AnsweredPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.bridges.llava import LLaVA


def claims() -> tuple[Claim, ...]:
    both = replace(LLaVA.tiny(), image_weights=WORLD, small_image_steps=800)
    alone = replace(both, projector_share=0.0)
    rates = around(both.lr)
    return (
        declare(
            slug="llava",
            sentence="At equally many steps a projector that learned captions first answers more questions after the dialogues than one "
            "that learned dialogues alone",
            source="2304.08485, table 8: without pre-training of the projector accuracy on ScienceQA falls by five points",
            baseline=Arm("dialogues alone", AnsweredPairs(alone), rates),
            method=Arm("captions, then dialogues", AnsweredPairs(both), rates),
            controls=(
                Arm("blind", AnsweredPairs(replace(both, blind=True))),
                Arm("untrained", AnsweredPairs(both, learns=False)),
            ),
            metric="accuracy",
            margins=0.03,
            equal_budget=("steps",),
            data=f"{PAIRS:,} rendered images of two shapes with a caption and four questions each; {TESTED} of the same seed to test",
            reported=("accuracy/colour", "accuracy/shape"),
            tuning_seeds=(0,),
            why_long="the language model is trained too: a cell takes one to two minutes",
        ),
    )
