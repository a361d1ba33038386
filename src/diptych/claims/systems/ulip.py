"""ULIP on rendered solids: both frozen anchors against the texts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diptych.claims.cells.domains.solids import ANCHOR, SOLIDS, TESTED, NamedSolids, NearestSolid
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.points.ulip import ULIP


def claims() -> tuple[Claim, ...]:
    both = replace(ULIP.tiny(), small_data=ANCHOR, names="texts", batch_size=16, steps=100, warmup=10.0)
    rates = around(3 * both.lr)
    method = Arm("ulip", NamedSolids(both), rates)
    words: dict[str, Any] = {
        "slug": "ulip",
        "source": "2212.05171, ablation of aligning with one modality and with both (zero-shot ModelNet40)",
        "controls": (
            Arm("untrained", NamedSolids(both, learns=False)),
            Arm("nearest training cloud by Chamfer distance", NearestSolid("chamfer")),
            Arm("nearest training cloud by colours", NearestSolid("colour")),
        ),
        "metric": "test",
        "margins": 0.03,
        "equal_budget": ("steps", "samples", "labelled"),
        "data": f"{SOLIDS} rendered solids of 25 categories, each at its own angle; to test, {TESTED} of new shapes, "
        f"and {TESTED} of new combinations",
        "reported": ("unseen",),
        "tuning_seeds": (0,),
    }
    return (
        declare(
            sentence="ULIP with views and texts names new shapes more often than with texts alone",
            baseline=Arm("texts alone", NamedSolids(replace(both, anchors="text")), rates),
            method=method,
            **words,
        ),
    )
