"""Pairs that a small model of trusted ones finds to agree, against these trusted pairs themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.claims.cell import Cell
from diptych.claims.cells.learned_pairs.pairs import Paired, SeededPairs, drawn, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import trained
from diptych.core.randomness import keyed_rng
from diptych.curate.operators.laion import LAION
from diptych.data.dataset import Pool
from diptych.recipes.contrastive.clip import CLIP
from diptych.worlds.small_pairs import SmallPairs

MISMATCHED, ROWS, TRUSTED, KNOWN, STEPS, BATCH = 0.5, 3000, 1000, 500, 300, 128
LOST = 0.1
"""The threshold is where so many trusted pairs would be lost: published ones were set by eye on such a histogram."""


@dataclass(frozen=True)
class Agreeing:
    """Rows kept by the LAION step with a CLIP that was trained on trusted pairs alone; or as many rows drawn by chance."""

    pool: SmallPairs
    scorer: CLIP
    by_chance: bool = False

    def __call__(self, cell: Cell) -> Pool:
        trusted = drawn(SmallPairs(TRUSTED), cell, elsewhere=1)
        threshold_rows = drawn(SmallPairs(KNOWN), cell, elsewhere=2)
        cell.spending.count(trusted=len(trusted) + len(threshold_rows))
        model = trained(self.scorer, trusted, cell.part("scorer")).model
        ask = LAION(min_bytes=0, model=str(model), similarity=-1.0, similarity_other=-1.0)
        level = float(np.quantile(list(ask(threshold_rows).columns["similarity"].values()), LOST))
        pool = drawn(self.pool, cell)
        kept = set(replace(ask, similarity=level, similarity_other=level)(pool).kept)
        rows = np.array([row for row, uid in enumerate(pool.uids) if uid in kept], np.int64)
        if self.by_chance:
            rows = np.sort(keyed_rng("by chance", cell.seed).permutation(len(pool))[: len(rows)])
        return pool.select(rows)


@dataclass(frozen=True)
class Trusted:
    """Every trusted pair, those that set the threshold too, and nothing else: what a reader would train on first."""

    def __call__(self, cell: Cell) -> Pool:
        parts = drawn(SmallPairs(TRUSTED), cell, elsewhere=1), drawn(SmallPairs(KNOWN), cell, elsewhere=2)
        cell.spending.count(trusted=sum(map(len, parts)))
        return Pool.from_samples((part[row] for part in parts for row in range(len(part))), name="trusted/train")


def claims() -> tuple[Claim, ...]:
    clip, pool = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS), SmallPairs(ROWS, MISMATCHED)
    longer = replace(clip, steps=2 * STEPS)  # as long as model and scorer together
    agreeing = Agreeing(pool, clip)
    untrained = Arm("untrained", Paired(clip, SeededPairs(pool), learns=False))
    trusted = declare(
        slug="laion",
        sentence=f"What a model of {TRUSTED + KNOWN:,} trusted pairs keeps of a pool with {MISMATCHED:.0%} mismatched beats these pairs",
        source="2210.08402, pairs kept by the cosine of CLIP (about 90 % of candidates left), and what was trained on them",
        refuted="a difference whose interval lies below zero, or a recall no higher than that of the raw pool",
        baseline=Arm("trusted alone", Paired(longer, Trusted()), around(clip.lr)),
        method=Arm("agreeing", Paired(clip, agreeing), around(clip.lr)),
        controls=(untrained, Arm("raw", Paired(longer, SeededPairs(pool)))),
        metric="test/i2t_r@1",
        margins=0.02,
        equal_budget=("steps", "samples", "trusted", "trained_parameters"),
        data=f"{ROWS:,} rendered images of two shapes, {TRUSTED + KNOWN:,} trusted ones for the filter; retrieval among 500 clean pairs. "
        "Without a filter training is as long as model and scorer together",
        reported=("test/t2i_r@1", "rows", "mismatched"),
        tuning_seeds=(0, 1),
    )
    return (trusted,)
