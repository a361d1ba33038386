"""Text4Point on rendered rooms: pre-training on pictures with depth before five labelled rooms, against a fresh network."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.nearest_rooms import NearestLabelledRoom
from diptych.claims.cells.domains.rooms import ANCHOR, LABELLED, TESTED, UNLABELLED, NearestPoint, SegmentedRooms
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.points.text4point import Text4Point


def claims() -> tuple[Claim, ...]:
    pretrained = replace(Text4Point.tiny(), small_data=ANCHOR, steps=100, warmup=10.0)
    tuned = replace(pretrained, phase="finetune", batch_size=5, steps=80, warmup=8.0)
    rates = around(tuned.lr)
    return (
        declare(
            slug="text4point",
            sentence=f"Text4Point fine-tuned on {LABELLED} labelled rooms after pre-training on pictures with depth names points of other "
            "rooms better than a fresh network",
            baseline=Arm("fresh network", SegmentedRooms(tuned), rates),
            method=Arm("text4point", SegmentedRooms(tuned, pretrained), rates),
            controls=(
                Arm("untrained", SegmentedRooms(tuned, learns=False)),
                Arm("nearest labelled room by Chamfer distance", NearestLabelledRoom("chamfer")),
                Arm("nearest labelled room by histogram of colours", NearestLabelledRoom("colour")),
                Arm("nearest labelled point by colour", NearestPoint("colour")),
                Arm("nearest labelled point by height and colour", NearestPoint("height")),
            ),
            metric="test",
            margins=0.02,
            equal_budget=("labelled",),
            data=f"{UNLABELLED} rendered rooms without labels, {LABELLED} with a class for each of 1,024 points, {TESTED} others to test",
            source="2301.07584, semantic segmentation after pre-training against training from scratch",
            reported=("accuracy",),
            tuning_seeds=(0, 1),
        ),
    )
