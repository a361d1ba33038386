"""Gain of a Semantic FPN that starts from CLIP by language: a score map by texts conditioned on the picture."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.adaptation.segmented import MaskedPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.adaptation.denseclip import DenseCLIP

MASKS = 150


def claims() -> tuple[Claim, ...]:
    full = replace(DenseCLIP.tiny(), steps=300)
    none = replace(full, language="none")
    rates = around(3e-3)
    guided = declare(
        slug="denseclip",
        sentence="From the same CLIP, language guidance gives a Semantic FPN a higher mean IoU",
        source="2112.01518: ADE20K, ResNet-50, 39.6 without and 43.5 with language",
        baseline=Arm("CLIP and FPN", MaskedPairs(none, MASKS), rates),
        method=Arm("denseclip", MaskedPairs(full, MASKS), rates),
        controls=(Arm("untrained", MaskedPairs(full, MASKS, learns=False)),),
        metric="miou",
        margins=0.01,
        equal_budget=("steps", "samples", "labelled"),
        data=f"rendered images of two shapes, {MASKS} with masks of 24 kinds; the CLIP has read 6,000 others, whose texts name both",
        reported=("acc", "macc"),
        tuning_seeds=(0, 1),
        why_long="pictures of 96 pixels through a ResNet and a pyramid: a cell takes more than a minute",
    )
    return (guided,)
