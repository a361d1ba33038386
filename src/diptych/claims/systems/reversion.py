"""ReVersion on related shapes: steering and skewed steps against plain textual inversion."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.generation import EXEMPLARS, INVERTED, NEW, PROMPTS, SEEN, InvertedRelation, PastedExemplar
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.generation.reversion import ReVersion


def claims() -> tuple[Claim, ...]:
    made = ReVersion.tiny()
    plain = replace(made, steering=0.0, skew=0.0)
    rates = around(made.lr)
    return (
        declare(
            slug="reversion",
            sentence="A relation that is inverted with steering and more steps of much noise is drawn without the exemplars' colours more "
            "often than by plain textual inversion",
            source="2303.13495: relation and entity accuracy against textual inversion. Its comparison with words is a bound here: the "
            "captions of the frozen model name the relation",
            baseline=Arm("textual inversion", InvertedRelation(plain), rates),
            method=Arm("reversion", InvertedRelation(made), rates),
            controls=(
                Arm("the initial word", InvertedRelation(plain, words="and")),
                Arm("an exemplar pasted", PastedExemplar()),
            ),
            bounds=(Arm("the relation's own name", InvertedRelation(plain, words=INVERTED)),),
            metric="clean",
            margins=0.05,
            data=f"{EXEMPLARS} exemplars of '{INVERTED}' in {' and '.join(SEEN)}; {PROMPTS} prompts with things in {', '.join(NEW)}; the "
            "frozen model learns 3,000 captioned pictures of eight relations once for all cells",
            reported=("relation_accuracy", "leak_rate", "entity_accuracy"),
            tuning_seeds=(0,),
        ),
    )
