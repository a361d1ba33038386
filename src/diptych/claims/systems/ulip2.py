"""ULIP-2 on rendered solids: captions of views against category names."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.solids import ANCHOR, SOLIDS, TESTED, ColouredSolids, NearestColouredSolid
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.points.ulip2 import ULIP2


def claims() -> tuple[Claim, ...]:
    views = replace(ULIP2.tiny(), small_data=ANCHOR, names="views", top=2, batch_size=16, steps=100, warmup=10.0)
    rates = around(3 * views.lr)
    return (
        declare(
            slug="ulip2",
            sentence="ULIP-2 with ranked captions of views names colour and category of new shapes more often than with category names",
            baseline=Arm("category names", ColouredSolids(replace(views, names="label")), rates),
            method=Arm("ulip2", ColouredSolids(views), rates),
            controls=(
                Arm("untrained", ColouredSolids(views, learns=False)),
                Arm("nearest training cloud by Chamfer distance", NearestColouredSolid("chamfer")),
                Arm("nearest training cloud by colours", NearestColouredSolid("colour")),
            ),
            metric="test",
            margins=0.03,
            equal_budget=("steps", "samples", "labelled"),
            data=f"{SOLIDS} rendered solids of 25 categories in 8 colours, 4 captions of each of 4 views, 3 in 10 of them wrong; to test, "
            f"{TESTED} of new shapes, and {TESTED} of new combinations",
            source="2305.08275, comparison of generated captions of views with names and metadata (zero-shot, Objaverse-LVIS)",
            reported=("test/colour", "test/category", "unseen"),
            tuning_seeds=(0,),
        ),
    )
