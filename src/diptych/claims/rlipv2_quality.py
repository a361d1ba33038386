"""Soft targets under loose boxes: a query that matches a pair only roughly is told so, instead of being as right as one that fits."""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.linked_shapes import BUDGET, DATA, SOURCES, jittered, link_cell, small


def claim() -> Claim:
    return Claim(
        slug="rlipv2",
        name="quality",
        sentence="Under boxes whose edges are off by up to a quarter, quality labels give a higher recall at 5 than plain ones",
        source="2209.01814 (RLIP), relation quality labels",
        refuted="a difference whose interval lies below zero; an interval around zero leaves it open",
        baseline=Arm("plain", link_cell(small(quality=False), train_change=jittered)),
        method=Arm("quality", link_cell(small(quality=True), train_change=jittered)),
        metric="r@5",
        budget=BUDGET,
        data=f"{DATA}; boxes of training are jittered",
        sources=("diptych.claims.rlipv2_quality", *SOURCES),
        reported=("seen/r@5", "unseen/r@5", "train_seconds"),
    )
