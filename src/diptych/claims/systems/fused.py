"""Reading image and text together against comparing their vectors: what a search pays its time for."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.pairs import Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.fused import FusedMatcher
from diptych.worlds.small_pairs import SmallPairs

PAIRS, STEPS, BATCH = 6000, 400, 128


def claims() -> tuple[Claim, ...]:
    rows = SeededPairs(SmallPairs(PAIRS))
    clip = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS)
    fused = sized_for(replace(FusedMatcher.tiny(), fusion_heads=4), batch_size=BATCH, steps=STEPS)
    return (
        declare(
            slug="fused",
            kind="mechanism check",
            sentence="At equal steps, a model that reads image and text together has a higher recall at 1 than CLIP",
            source="2107.07651, which re-ranks what its vectors find (Flickr30k, before and after)",
            baseline=Arm("clip", Paired(clip, rows), around(clip.lr)),
            method=Arm("fused", Paired(fused, rows), around(fused.lr)),
            controls=(Arm("untrained", Paired(fused, rows, learns=False)),),
            metric="test/i2t_r@1",
            margins=0.02,
            data=f"{PAIRS:,} rendered images of two shapes, each text names both and their places; retrieval among 500",
            reported=("test/t2i_r@1",),
        ),
    )
