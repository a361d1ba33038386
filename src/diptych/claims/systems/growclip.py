"""More data came: grow the model, or go on with the small one?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import Paired, SeededPairs, sized_for
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.growclip import GrowCLIP
from diptych.train.halving import halving_rounds
from diptych.worlds.small_pairs import SmallPairs

PAIRS, FIRST, BATCH = 6000, 1 / 3, 128
BEFORE, AFTER, CANDIDATES, TRIAL = 250, 250, 4, 10
SEARCH = sum(models * steps for models, steps in halving_rounds(CANDIDATES, TRIAL))


@dataclass(frozen=True)
class ArchitectureSearch:
    """An arm with the steps of its search on the account: every trial counts."""

    paired: Paired
    steps: int

    def __call__(self, cell: Cell) -> Scores:
        scores = self.paired(cell)
        cell.spending.count(steps=self.steps, samples=self.steps * BATCH)  # the search is as long in the sweep
        return scores


def of(**changes: Any) -> GrowCLIP:
    """The same pictures, tower width, batch and learning rate; layers, parts of the data and steps are what differs."""
    small = sized_for(GrowCLIP.tiny(), batch_size=BATCH, wider=0, budget=2.0, trial=TRIAL, candidates=CANDIDATES)
    return replace(small, **changes)


def claims() -> tuple[Claim, ...]:
    rows = SeededPairs(SmallPairs(PAIRS))
    whole = BEFORE + AFTER + SEARCH
    grown = of(layers=(1, 1, 0), more=(1, 1, 1), parts=(FIRST, 1.0), shares=(BEFORE, AFTER), steps=BEFORE + AFTER)
    fixed = of(layers=(1, 1, 0), more=(0, 0, 0), parts=(FIRST, 1.0), shares=(BEFORE, AFTER + SEARCH), steps=whole)
    never = declare(
        slug="growclip",
        sentence="When more data come, growing the model beats never growing it, at as many steps with all trials of the search counted",
        source="2308.11331 (+1.2 image to text recall on Flickr30k against other growing methods); search and sizes are our reading",
        baseline=Arm("never grown", Paired(fixed, rows), around(fixed.lr)),
        method=Arm("grown", ArchitectureSearch(Paired(grown, rows), SEARCH), around(grown.lr)),
        controls=(Arm("untrained", Paired(fixed, rows, learns=False)),),
        metric="test/i2t_r@1",
        margins=0.02,
        data=f"{PAIRS:,} rendered pairs of two shapes, a third of which came first",
        reported=("test/t2i_r@1",),
    )
    return (never,)
