"""Do adapters of low rank tune a CLIP to views from above as well as tuning all of its weights?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.overhead import ASKED, TunedOverhead
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.domains.georsclip import GeoRSCLIP

VIEWS, STARTED, TUNED, RANK = 1500, 300, 150, 16
"""Views to tune on, steps of the start and of the tuning, and the rank of the adapters."""


def claims() -> tuple[Claim, ...]:
    start = sized_for(CLIP.tiny(), batch_size=128, steps=STARTED, text_length=20)
    tuned = sized_for(GeoRSCLIP.tiny(), batch_size=128, steps=TUNED, warmup=10.0, text_length=20)
    return (
        declare(
            slug="georsclip",
            sentence="At equal steps, adapters of low rank tune a CLIP to views from above with a mean recall within three points of that "
            "of tuning every weight",
            source="2306.11300, which tunes CLIP with adapters and in full",
            refuted="a difference whose interval lies outside the equivalence margin",
            baseline=Arm("every weight", TunedOverhead(start, tuned, VIEWS), around(1e-3)),
            method=Arm("adapters", TunedOverhead(start, replace(tuned, rank=RANK), VIEWS), around(1.2e-2)),
            controls=(Arm("untuned", TunedOverhead(start, tuned, VIEWS, learns=False)),),
            metric="target/mean_recall",
            margins=0.03,
            data=f"{VIEWS:,} general pictures and as many upright views to start from, {VIEWS:,} views at any rotation to tune on; "
            f"{ASKED} fresh ones",
            reported=("source/mean_recall", "start/target", "start/source"),
            tuning_seeds=(0,),
        ),
    )
