"""NDCR on sets of ten similar pictures: by propositions, negations and their conjunction against the whole text alone."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.reasoning.picked import MOST, SETS, TESTED, Compared, PickedPictures
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.grounding.ndcr import NDCR


def claims() -> tuple[Claim, ...]:
    full = replace(NDCR.tiny(), text_tower="text_micro", batch_size=16, steps=500, lr=2e-3)
    whole = replace(full, answers="context", align=0.0)
    rates = around(full.lr)
    return (
        declare(
            slug="ndcr",
            sentence="Texts of two statements, some negated, find their picture among ten more often by propositions, negations "
            "and their conjunction than by the whole text, over the same frozen encoder",
            source="2305.02265, ImageCoDe: NDCR against OFA-large with the context branch alone",
            baseline=Arm("whole text", PickedPictures(whole), rates),
            method=Arm("ndcr", PickedPictures(full), rates),
            controls=(
                Arm("encoder, whole text", Compared(full)),
                Arm("no text", PickedPictures(full, reads="nothing")),
                Arm("untrained", PickedPictures(full, learns=False)),
            ),
            bounds=(Arm("encoder, product of statements", Compared(full, by="product")),),
            metric="accuracy",
            margins=0.05,
            data=f"{SETS:,} sets of ten pictures with a text of {MOST} statements, {TESTED} to test; the encoder learned 6,000 captions "
            "that negate nothing",
            reported=("negated", "plain"),
            seeds=3,
            tuning_seeds=(0,),
        ),
    )
