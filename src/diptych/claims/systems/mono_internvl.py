"""Mono-InternVL on pictures of two shapes: what a language model forgets of texts while it learns to see."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.answered_pairs import PAIRS, TESTED, CaptionedPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.bridges.mono_internvl import MonoInternVL

STEPS = 100


def claims() -> tuple[Claim, ...]:
    experts = replace(MonoInternVL.tiny(), concept_share=0.6, semantic_share=0.4, alignment_share=0.0, steps=STEPS)
    full = replace(experts, experts=False, full=True)
    rates = around(experts.lr)
    return (
        declare(
            slug="mono_internvl",
            sentence="With visual experts a language model that learned to see finds texts without pictures likelier than one that was "
            "trained as a whole",
            source="2410.08202: visual experts keep what the language model knows, where training all of it forgets",
            baseline=Arm("whole language model", CaptionedPairs(full), rates),
            method=Arm("visual experts", CaptionedPairs(experts), rates),
            controls=(Arm("untrained", CaptionedPairs(experts, learns=False)),),
            metric="text_nll",
            higher_is_better=False,
            tuned_by="cider_d",
            margins=0.05,
            data=f"{PAIRS:,} rendered images of two shapes with a text, {TESTED} of the same seed to test, and the texts of those alone",
            reported=("cider_d", "exact"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
