"""Token-wise late interaction against CLIP's one vector, and whether its words find the things that they name."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.localised import Localised, WhatStandsOut
from diptych.claims.cells.learned_pairs.pairs import Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.filip import FILIP
from diptych.worlds.small_pairs import SIDE, SmallPairs

PAIRS, STEPS, BATCH = 6000, 400, 128
PATCH = 8
"""Pixels of a patch where words are looked for: a thing covers a few of 36. With one patch a cell, a prototype's words found nothing."""


def claims() -> tuple[Claim, ...]:
    rows = SeededPairs(SmallPairs(PAIRS))
    clip, filip = (sized_for(recipe, batch_size=BATCH, steps=STEPS) for recipe in (CLIP.tiny(), FILIP.tiny()))
    fine_clip, fine_filip = (replace(recipe, image_tower="dense_micro") for recipe in (clip, filip))
    retrieval = declare(
        slug="filip",
        sentence="At equal steps and data, comparing tokens gives a higher recall at 1 than comparing one vector",
        source="2111.07783, ablation on YFCC15M (COCO image to text 29.2 with CLIP, 30.5 with token-wise interaction)",
        baseline=Arm("clip", Paired(clip, rows), around(clip.lr)),
        method=Arm("filip", Paired(filip, rows), around(filip.lr)),
        controls=(Arm("untrained", Paired(filip, rows, learns=False)),),
        metric="test/i2t_r@1",
        margins=0.02,
        equal_budget=("steps", "samples", "trained_parameters"),
        data=f"{PAIRS:,} rendered images of two shapes, each text names both and their places; retrieval among 500",
        reported=("test/t2i_r@1",),
    )
    words = declare(
        slug="filip",
        name="words",
        sentence="A thing's name weighs more on it than on the other thing of the picture, more often than by CLIP's patches and words",
        source="2111.07783, whose figure shows patches that go with the name of a class, and none for CLIP",
        baseline=Arm("clip", Localised(fine_clip, PAIRS), around(clip.lr)),
        method=Arm("filip", Localised(fine_filip, PAIRS), around(filip.lr)),
        controls=(
            Arm("untrained", Localised(fine_filip, PAIRS, learns=False)),
            Arm("what stands out", WhatStandsOut(SIDE // PATCH)),
        ),
        metric="among",
        margins=0.03,
        data=f"{PAIRS:,} rendered images of two shapes in patches of {PATCH} pixels, texts without places; boxes are known",
        reported=("pointing", "auc", "test/i2t_r@1", "test/t2i_r@1"),
        why_long="fine patches, for boxes to be asked of, make four times as many tokens as the other claim has",
    )
    return retrieval, words
