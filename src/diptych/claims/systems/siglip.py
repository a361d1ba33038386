"""At a small batch the sigmoid loss is at least as good as the softmax (Zhai et al., 2023, for batches below 16,384)."""

from __future__ import annotations

from diptych.claims.cells.learned_pairs.pairs import Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.siglip import SigLIP
from diptych.worlds.small_pairs import SmallPairs

STEPS, BATCH = 2000, 16
RATES = (3e-4, 1e-3, 3e-3)


def claims() -> tuple[Claim, ...]:
    rows = SeededPairs(SmallPairs(6000))
    clip, siglip = (sized_for(recipe, batch_size=BATCH, steps=STEPS, resize="crop") for recipe in (CLIP.tiny(), SigLIP.tiny()))
    return (
        declare(
            slug="siglip",
            sentence=f"With batches of {BATCH}, the sigmoid loss gives a higher recall at 1 than CLIP's softmax",
            source="2303.15343, whose advantage is largest at small batches",
            baseline=Arm("clip", Paired(clip, rows), RATES),
            method=Arm("siglip", Paired(siglip, rows), RATES),
            controls=(Arm("untrained", Paired(siglip, rows, learns=False)),),
            metric="test/i2t_r@1",
            margins=0.02,
            equal_budget=("steps", "samples", "trained_parameters"),
            data="6,000 rendered images of two shapes; retrieval among 500",
            reported=("test/t2i_r@1",),
        ),
    )
