"""The half of real clip art whose texts agree best with the pictures, against all of it and against a half drawn by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.claims.cell import Cell
from diptych.claims.cells.learned_pairs.clipart import ASKED, AsManyByChance, OnClipart, emoji_heads, heads, rows_of
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.curate.operators.laion import LAION
from diptych.data.dataset import Pool
from diptych.recipes.contrastive.locked import Locked

SCORER_STEPS, SHARE = 100, 0.5
"""Published thresholds were set by eye on a histogram of another model's cosines: here as many rows stay as are compared with."""


@dataclass(frozen=True)
class Agreeing:
    """The share of the rows whose cosine is highest, by heads of the same kind that learned from the packaged emoji."""

    scorer: Locked

    def __call__(self, pool: Pool, cell: Cell) -> Pool:
        model = emoji_heads(self.scorer, pool, cell.part("scorer"))
        ask = LAION(
            min_text=0, min_bytes=0, same_url=False, same_bytes=False, model=model, similarity=-1.0, similarity_other=-1.0
        )
        similarity = dict(ask(pool).columns["similarity"])
        least = float(np.quantile(list(similarity.values()), 1 - SHARE))
        return rows_of(pool, {uid for uid, cosine in similarity.items() if cosine >= least})


def as_many(pool: Pool, cell: Cell) -> Pool:
    return pool.select(range(round(SHARE * len(pool))))


def claims() -> tuple[Claim, ...]:
    locked, agreeing = heads(), Agreeing(heads(SCORER_STEPS))
    longer = heads(locked.steps + SCORER_STEPS)  # as long as scorer and heads together
    return (
        declare(
            slug="laion",
            sentence=f"At equal steps, the {SHARE:.0%} of openclipart whose texts agree best with the pictures give a higher recall at 5 "
            "than all of it",
            source="2210.08402, pairs kept by the cosine of CLIP (about 90 % of candidates left), and what was trained on them",
            refuted="a difference whose interval lies below zero, or a recall no higher than that of as many rows by chance",
            baseline=Arm("whole", OnClipart(longer), around(locked.lr)),
            method=Arm("agreeing", OnClipart(locked, agreeing), around(locked.lr)),
            controls=(
                Arm("untrained heads", OnClipart(locked, learns=False)),
                Arm("by chance", OnClipart(longer, AsManyByChance(as_many))),
            ),
            **ASKED | {"tuning_seeds": (0,)},
        ),
    )
