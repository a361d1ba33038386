"""RelationBooth on stick figures: an adapter that is trained with the key-point loss against one without, equal steps."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.generation import FIGURES, FIGURES_TESTED, JOINED, JoinedFigures
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.generation.relationbooth import RelationBooth


def claims() -> tuple[Claim, ...]:
    made = RelationBooth.tiny()
    without = replace(made, key_points=0.0)
    rates = around(made.lr)
    return (
        declare(
            slug="relationbooth",
            sentence="After equally many steps the limbs of two given figures are nearer to those that the relation asks for with the "
            "key-point loss than without",
            source="2410.23280, ablation of the key-point matching loss",
            baseline=Arm("without key points", JoinedFigures(without), rates),
            method=Arm("with key points", JoinedFigures(made), rates),
            controls=(
                Arm("untrained adapter", JoinedFigures(made, learns=False)),
                Arm("reference pictures pasted", JoinedFigures(made, pasted=True)),
            ),
            metric="key_point_error",
            higher_is_better=False,
            margins=0.005,
            data=f"{FIGURES} pictures of two figures {JOINED} each other, {FIGURES_TESTED} new pairs to test; the frozen model learns "
            "2,000 pictures of other relations once for all cells",
            reported=("relation_accuracy", "identity_accuracy"),
            tuning_seeds=(0,),
        ),
    )
