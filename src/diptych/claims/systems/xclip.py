"""X-CLIP on clips that only the order of frames tells apart: against the mean over frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diptych.claims.cells.domains.clips import CLIPS, FRAMES, SIDE, TESTED, ReversedPairs
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.adaptation.xclip import XCLIP


def claims() -> tuple[Claim, ...]:
    full = replace(XCLIP.tiny(), image_size=SIDE, frames=FRAMES)
    mean = replace(full, messages=False, mixer=0, prompts=0)
    rates = around(full.lr)
    words: dict[str, Any] = {
        "slug": "xclip",
        "controls": (Arm("untrained", ReversedPairs(full, learns=False)),),
        "metric": "within",
        "margins": 0.05,
        "equal_budget": ("steps", "samples", "labelled"),
        "data": f"{CLIPS:,} clips of one moving shape in four pairs of classes that are reversed in time, {TESTED} to test",
        "reported": ("acc", "pair"),
        "tuning_seeds": (0, 1),
    }
    return (
        declare(
            sentence="X-CLIP tells a class from its reverse in time more often than the mean over CLIP's frames",
            source="2208.02816, ablation: 80.0 by the mean of frames, 82.3 with messages and temporal transformer (Kinetics-400)",
            baseline=Arm("mean of frames", ReversedPairs(mean), rates),
            method=Arm("xclip", ReversedPairs(full), rates),
            **words,
        ),
    )
