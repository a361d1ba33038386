"""Do images alone teach what reports never mention, which CLIP has no reason to keep?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.chests import PROBED, TESTED, ProbedChests
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.claim import Arm, Claim, Margins, around, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.domains.rad_dino import RadDINO, ViewsConfig

PICTURES, STEPS, BATCH = 2000, 400, 32


def claims() -> tuple[Claim, ...]:
    views = ViewsConfig(locals=2, local_size=24, whole_scale=(0.5, 1.0), local_scale=(0.1, 0.4), blur=(0.2, 0.1, 0.1))
    images = replace(RadDINO.tiny(), image_tower="dense_micro", image_size=48, views=views, batch_size=BATCH, steps=STEPS)
    clip = sized_for(CLIP.tiny(), image_tower="dense_micro", batch_size=BATCH, steps=STEPS)
    return (
        declare(
            slug="rad_dino",
            sentence="At equal steps a linear probe tells the spacing of the ribs, which no report mentions, better from vectors of "
            "RAD-DINO than from those of CLIP",
            source="2401.10815, whose image-only features keep sex, age and devices; here rendered chests",
            baseline=Arm("clip", ProbedChests(clip, PICTURES), around(clip.lr)),
            method=Arm("images alone", ProbedChests(images, PICTURES), around(images.lr)),
            controls=(Arm("untrained", ProbedChests(images, PICTURES, learns=False)),),
            metric="ribs",
            margins=Margins(matters=0.05, equivalence=0.03),
            data=f"{PICTURES:,} rendered chests of 48 pixels; probe on {PROBED:,}, tested on {TESTED}",
            reported=("lesion", "device"),
            tuning_seeds=(0,),
        ),
    )
