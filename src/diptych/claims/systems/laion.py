"""Pairs of real clip art whose picture and text agree by a model from elsewhere, against the whole pool and as many rows by chance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.claims.cell import Cell
from diptych.claims.cells.learned_pairs.clipart import (
    CLIPART,
    HELD_OUT,
    SMOKE_ROWS,
    STEPS,
    AsManyByChance,
    OnClipart,
    heads,
    rows_of,
)
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import trained
from diptych.curate.operators.laion import LAION
from diptych.data.dataset import Pool
from diptych.recipes.contrastive.locked import Locked
from diptych.worlds.address import open_data

LOST = 0.1
"""The threshold is where so many right pairs would be lost: published ones were set by eye on such a histogram."""


@dataclass(frozen=True)
class Agreeing:
    """Rows that the LAION step keeps by heads that were trained on emoji. Its threshold comes from emoji of concepts that they have not
    seen."""

    scorer: Locked

    def __call__(self, pool: Pool, cell: Cell) -> Pool:
        emoji = open_data("emoji")
        trusted, unseen = emoji.split("train"), emoji.split("unseen_concept")
        if cell.smoke:
            trusted, unseen = trusted.select(range(SMOKE_ROWS)), unseen.select(range(SMOKE_ROWS))
        cell.spending.count(trusted=len(trusted) + len(unseen))
        model = trained(self.scorer, trusted, cell.part("scorer")).model
        ask = LAION(min_text=1, min_bytes=0, same_bytes=False, model=str(model), similarity=-1.0, similarity_other=-1.0)
        level = float(np.quantile(list(ask(unseen).columns["similarity"].values()), LOST))
        return rows_of(pool, set(replace(ask, similarity=level, similarity_other=level)(pool).kept))


def claims() -> tuple[Claim, ...]:
    locked = heads()
    longer = heads(2 * STEPS)  # as long as model and scorer together
    agreeing = Agreeing(locked)
    return (
        declare(
            slug="laion",
            sentence="What a model of emoji finds to agree in openclipart gives a higher recall at 5 than the whole pool, scorer counted",
            source="2210.08402, pairs kept by the cosine of CLIP (about 90 % of candidates left), and what was trained on them",
            refuted="a difference whose interval lies below zero, or a recall no higher than that of as many rows by chance",
            baseline=Arm("whole", OnClipart(longer), around(locked.lr)),
            method=Arm("agreeing", OnClipart(locked, agreeing), around(locked.lr)),
            controls=(
                Arm("untrained heads", OnClipart(locked, learns=False)),
                Arm("by chance", OnClipart(longer, AsManyByChance(agreeing))),
            ),
            metric=f"{HELD_OUT}/t2i_r@5",
            margins=0.01,
            data=CLIPART,
            reported=(f"{HELD_OUT}/i2t_r@5", f"{HELD_OUT}/t2i_r@1", "rows"),
            tuning_seeds=(0, 1),
        ),
    )
