"""Claim of SGL: picture and sentence together say what neither says alone."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.reasoning.kitchen_goals import KITCHENS, OPEN, TESTED, LearnedGoals, NearestKitchen
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.relations.sgl import SGL


def claims() -> tuple[Claim, ...]:
    both = replace(SGL.tiny(), pretrain="none", steps=250)
    return (
        declare(
            slug="sgl",
            sentence="Where a sentence leaves the tool open, picture and sentence together give the goal more often than the sentence does "
            "alone",
            source="2202.12912: goals from vision and language against language alone, among instructions and intents that name no tool",
            baseline=Arm("language", LearnedGoals(replace(both, inputs="language")), around(both.lr)),
            method=Arm("both", LearnedGoals(both), around(both.lr)),
            controls=(
                Arm("picture", LearnedGoals(replace(both, inputs="picture"))),
                Arm("nearest kitchen", NearestKitchen()),
                Arm("untrained", LearnedGoals(both, learns=False)),
            ),
            metric="open",
            margins=0.05,
            data=f"{KITCHENS:,} rendered kitchens, {TESTED} to test; {OPEN:.0%} of the sentences leave the tool open",
            reported=("exact", "missing"),
            tuning_seeds=(0, 1),
        ),
    )
