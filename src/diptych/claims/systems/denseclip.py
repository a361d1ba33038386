"""Gain of a Semantic FPN that starts from CLIP by language: the score map, and texts conditioned on the picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diptych.claims.cells.adaptation.segmented import MaskedPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.adaptation.denseclip import DenseCLIP

MASKS = 150


def claims() -> tuple[Claim, ...]:
    full = replace(DenseCLIP.tiny(), steps=300)
    score, none = (replace(full, language=language) for language in ("score", "none"))
    rates = around(3e-3)
    words: dict[str, Any] = {
        "slug": "denseclip",
        "controls": (Arm("untrained", MaskedPairs(full, MASKS, learns=False)),),
        "metric": "miou",
        "margins": 0.01,
        "equal_budget": ("steps", "samples", "labelled"),
        "data": f"rendered images of two shapes, {MASKS} with masks of 24 kinds; the CLIP has read 6,000 others, whose texts name both",
        "reported": ("acc", "macc"),
        "tuning_seeds": (0, 1),
        "why_long": "pictures of 96 pixels through a ResNet and a pyramid: a cell takes more than a minute",
    }
    return (
        declare(
            sentence="From the same CLIP, language guidance gives a Semantic FPN a higher mean IoU",
            source="2112.01518: ADE20K, ResNet-50, 39.6 without and 43.5 with language",
            baseline=Arm("CLIP and FPN", MaskedPairs(none, MASKS), rates),
            method=Arm("denseclip", MaskedPairs(full, MASKS), rates),
            **words,
        ),
        declare(
            name="start",
            sentence="A Semantic FPN that starts from CLIP has a higher mean IoU than one from fresh weights",
            source="2112.01518: its baseline starts from CLIP, which is better than ImageNet's weights",
            baseline=Arm("fresh FPN", MaskedPairs(none, MASKS, begun=False), rates),
            method=Arm("CLIP and FPN", MaskedPairs(none, MASKS), rates),
            **{**words, "equal_budget": ("labelled",)},
        ),
        declare(
            name="decoder",
            sentence="Texts that look at the picture give a higher mean IoU than the score map of fixed texts",
            source="2112.01518, ablation: 42.9 with the score map, 43.5 with post-model context",
            baseline=Arm("score map", MaskedPairs(score, MASKS), rates),
            method=Arm("denseclip", MaskedPairs(full, MASKS), rates),
            **words,
        ),
    )
