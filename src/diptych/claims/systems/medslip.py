"""Do two streams, of findings and of places, recognise a finding at a place that it was never seen at?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.chest_pairs import TESTED, PairedChests, RidgePairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.domains.medslip import MeDSLIP, StreamConfig

PICTURES, STEPS, BATCH = 800, 160, 32


def claims() -> tuple[Claim, ...]:
    layers = StreamConfig(width=64, layers=2, mlp_width=128, dropout=0.0)
    small = replace(MeDSLIP.tiny(), decoder=layers, image_tower="dense_micro", image_size=48, crop=(1.0, 1.0), flip=False)
    two = replace(small, batch_size=BATCH, steps=STEPS)
    one = replace(two, decoder=replace(layers, streams="one"))
    return (
        declare(
            slug="medslip",
            sentence="At equal steps and about equal parameters, two streams give a higher AUC of findings at places that training never "
            "paired than one stream with a layer that says the place",
            source="2403.10635, which separates pathology and anatomy; here rendered chests",
            baseline=Arm("one stream", PairedChests(one, PICTURES), around(1e-3)),
            method=Arm("two streams", PairedChests(two, PICTURES), around(1e-3)),
            controls=(
                Arm("untrained", PairedChests(two, PICTURES, learns=False)),
                Arm("ridge from pixels", RidgePairs(PICTURES)),
            ),
            metric="held_out",
            margins=0.03,
            data=f"{PICTURES:,} rendered chests of 48 pixels without 5 of 30 pairs; {TESTED:,} others with all pairs are tested",
            reported=("seen", "pointing"),
            seeds=3,
            tuning_seeds=(0,),
        ),
    )
