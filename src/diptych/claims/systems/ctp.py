"""A memory against forgetting: CTP against plain fine-tuning on tasks one after the other."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.cells.learned_pairs.streams import AtOnce, Stopped, Streamed, Untrained
from diptych.claims.cells.learned_pairs.task_streams import colours
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes._shared.continual_config import ContinualWeights
from diptych.recipes.contrastive.ctp import CTP

BATCH, STEPS, ROWS, TESTED = 128, 480, 2000, 500


def small() -> CTP:
    """All of CTP at the size of these pictures: one block reads words and image and guesses hidden words."""
    tiny = CTP.tiny()
    split, fusion = replace(tiny.split, column=("task",), at_most=0), replace(tiny.fusion, fusion_heads=4)
    return sized_for(tiny, split=split, fusion=fusion, batch_size=BATCH, steps=STEPS, warmup=10.0, lr=1e-3, tau=0.07)


def plain(recipe: CTP) -> CTP:
    """Fine-tuning on one task after the other: hidden words are guessed too, nothing is remembered."""
    return replace(recipe, term_weights=ContinualWeights(weight_momentum=0.0, weight_topology=0.0, weight_distilled=0.0))


def claims() -> tuple[Claim, ...]:
    ctp = small()
    memory, none = (Streamed(recipe, colours, ROWS, TESTED) for recipe in (ctp, plain(ctp)))
    union = declare(
        slug="ctp",
        sentence="After all colours and then three tasks of two colours each, CTP retrieves more among all tasks than plain fine-tuning",
        source="2308.07146, whose score is recall among the pictures of all domains so far; tasks of colours are ours",
        refuted="a difference whose interval lies below zero, or a recall no higher than that of whoever stops after the first task",
        baseline=Arm("fine-tuning", none, around(ctp.lr)),
        method=Arm("ctp", memory, around(ctp.lr)),
        controls=(Arm("untrained", Untrained(memory)), Arm("stopped after the first task", Stopped(none))),
        bounds=(Arm("all tasks at once", AtOnce(none)),),
        metric="union",
        margins=0.02,
        data=f"{6 * ROWS:,} rendered pictures of two shapes in four tasks; recall at 1 among {4 * TESTED:,} of all tasks",
        reported=("first_task", "last_task", "average", "forgetting", "union_loss", "first_task_then"),
        tuning_seeds=(0,),
        why_long="four tasks one after the other in every cell, and the union and the first task alone stand beside",
    )
    return (union,)
