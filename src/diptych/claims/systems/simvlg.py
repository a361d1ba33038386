"""SimVLG on pictures of two shapes: captions from half the tokens against captions from all of them."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.answered_pairs import PAIRS, TESTED, WORLD, CaptionedPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.bridges.simvlg import SimVLG

STEPS = 120


def claims() -> tuple[Claim, ...]:
    merged = replace(SimVLG.tiny(), image_weights=WORLD, small_image_steps=800, steps=STEPS)
    whole = replace(merged, merged=0)
    rates = around(merged.lr)
    return (
        declare(
            slug="simvlg",
            sentence="A connector that merges half of an image's tokens writes captions that are as good by CIDEr-D as those of the same "
            "connector without merging",
            source="2310.03291: merging loses nothing, and training is several times cheaper; here half the tokens, by the same steps",
            refuted="a difference whose interval lies below the margin of equivalence",
            baseline=Arm("all 16 tokens", CaptionedPairs(whole), rates),
            method=Arm("8 tokens", CaptionedPairs(merged), rates),
            controls=(Arm("untrained", CaptionedPairs(merged, learns=False)),),
            metric="cider_d",
            margins=0.2,
            data=f"{PAIRS:,} rendered images of two shapes with a text, {TESTED} of the same seed to test",
            reported=("exact", "rouge_l"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
