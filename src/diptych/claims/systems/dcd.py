"""A teacher that reads pairs helps a student that does not: DCD against the same lists without the teacher."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.pairs import WIDTH, Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.dcd import DCD
from diptych.recipes.contrastive.fused import FusedMatcher
from diptych.worlds.small_pairs import SmallPairs

PAIRS, STEPS, BATCH, CANDIDATES = 6000, 1600, 32, 8
"""Small batches: a matcher learns to tell pairs by the number of its steps, and a teacher that cannot yet makes its student as blind."""


def claims() -> tuple[Claim, ...]:
    rows = SeededPairs(SmallPairs(PAIRS))
    dcd = sized_for(
        replace(DCD.tiny(), width=WIDTH, fusion_heads=4, layers=1, candidates=CANDIDATES), batch_size=BATCH, steps=STEPS
    )
    fused = sized_for(replace(FusedMatcher.tiny(), fusion_heads=4), batch_size=BATCH, steps=STEPS // 2)
    taught = declare(
        slug="dcd",
        kind="mechanism check",
        sentence="A student of one layer has a higher recall at 1 when it follows a teacher over lists than when it learns from them alone",
        source="2207.01426, abstract; lists and weights are our reading of it",
        baseline=Arm("alone", Paired(replace(dcd, weighting="constant", alone=1.0), rows), around(dcd.lr)),
        method=Arm("dcd", Paired(dcd, rows), around(dcd.lr)),
        controls=(Arm("untrained", Paired(dcd, rows, learns=False)),),
        bounds=(Arm("the teacher", Paired(fused, rows)),),
        metric="test/i2t_r@1",
        margins=0.02,
        equal_budget=("steps", "samples", "trained_parameters"),
        data=f"{PAIRS:,} rendered images of two shapes, each text names both and their places; retrieval among 500",
        reported=("test/t2i_r@1",),
        tuning_seeds=(0, 1),
        why_long="a teacher is trained before every student, and a matcher learns by the number of its steps",
    )
    return (taught,)
