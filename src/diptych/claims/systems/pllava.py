"""PLLaVA on clips of opposites: pooling of places against pooling of frames, at equally many tokens."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.answered_pairs import CLIPS, TESTED, AnsweredClips
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.bridges.pllava import PLLaVA

IMAGES = "small:world:small_pairs?n=4000&seed=1"
"""For the image encoder: pictures of the same shapes."""

STEPS = 120


def claims() -> tuple[Claim, ...]:
    spatial = replace(PLLaVA.tiny(), image_weights=IMAGES, small_image_steps=800, steps=STEPS)
    temporal = replace(spatial, pool=(2, 4, 4))
    rates = around(spatial.lr)
    return (
        declare(
            slug="pllava",
            sentence="At 32 tokens a clip pooling of places leaves more of what happens in a clip than pooling of frames",
            source="2404.16994, figure 6: pooling by half in space costs nothing, any pooling in time does",
            baseline=Arm("2 frames of 4 x 4", AnsweredClips(temporal), rates),
            method=Arm("8 frames of 2 x 2", AnsweredClips(spatial), rates),
            controls=(
                Arm("one frame of 2 x 2", AnsweredClips(replace(spatial, pool=(1, 2, 2)))),
                Arm("untrained", AnsweredClips(spatial, learns=False)),
            ),
            metric="accuracy",
            margins=0.05,
            data=f"{CLIPS:,} rendered clips of eight frames in four pairs of opposites, {TESTED} of the same seed to test",
            reported=("pair",),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
