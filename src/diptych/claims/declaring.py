"""Declarations of claims: `declare` fills in what most of them say, and gives their files the names that they need."""

from __future__ import annotations

from typing import Any

from diptych.claims.budget import QUANTITIES
from diptych.claims.claim import Arm, Claim, Kind
from diptych.claims.sweep import around
from diptych.claims.verdict import Margins

__all__ = ["QUANTITIES", "Arm", "Claim", "Margins", "around", "declare"]

STEPS_AND_SAMPLES = ("steps", "samples")


def declare(
    *,
    margins: Margins | float,
    kind: Kind = "paper's claim",
    equal_budget: Any = STEPS_AND_SAMPLES,
    refuted: str = "",
    **fields: Any,
) -> Claim:
    """A `Claim` of the paper, at equal steps and samples, refuted by an interval on the wrong side of zero, where nothing else is said.

    margins  one number for both: the smallest difference that would matter is also how close counts as equal

    Raises TypeError for a field that `Claim` does not have or that is missing.
    """
    side = "below" if fields.get("higher_is_better", True) else "above"
    return Claim(
        kind=kind,
        margins=margins if isinstance(margins, Margins) else Margins(matters=margins, equivalence=margins),
        equal_budget=equal_budget,
        refuted=refuted or f"a difference whose interval lies {side} zero",
        **fields,
    )
