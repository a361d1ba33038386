"""3D scene graph pre-training on rendered rooms: contrast at three levels against the scene level alone, before grounding is fine-tuned."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.nearest_rooms import NearestDescribedThing
from diptych.claims.cells.domains.rooms import DESCRIBED, TESTED, GroundedRooms, NamedThing
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.points.sg3d_vlp import SceneGraph3D


def claims() -> tuple[Claim, ...]:
    three = replace(SceneGraph3D.tiny(), heads=(), masking=False, steps=80, warmup=8.0)
    one = replace(three, levels=("scene",))
    tuned = replace(three, pretraining=False, heads=("grounding",), steps=50, warmup=5.0)
    rates = around(tuned.lr)
    return (
        declare(
            slug="sg3d_vlp",
            sentence="Pre-training at the levels of words, sentences and scenes finds things among others of their class more often "
            "than at the scene level alone",
            baseline=Arm("scene level alone", GroundedRooms(tuned, one), rates),
            method=Arm("sg3d_vlp", GroundedRooms(tuned, three), rates),
            controls=(
                Arm("untrained", GroundedRooms(tuned, learns=False)),
                Arm("nearest training thing by Chamfer distance", NearestDescribedThing("chamfer")),
                Arm("nearest training thing by histogram of colours", NearestDescribedThing("colour")),
                Arm("words of class, colour and size", NamedThing("words")),
                Arm("any thing", NamedThing("chance")),
            ),
            metric="multiple",
            margins=0.02,
            data=f"{DESCRIBED} rendered rooms of 5 to 9 things with two descriptions each, {TESTED} others to test",
            source="2411.18666, ablation of the contrastive levels (ScanRefer)",
            reported=("test",),
            tuning_seeds=(0,),
        ),
    )
