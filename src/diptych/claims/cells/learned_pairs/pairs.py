"""Arms on small rendered pairs: a recipe learns from the rows of the cell's seed, then retrieves among clean ones that show everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.data.dataset import Pool
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.small_pairs import SIDE, SmallPairs

WIDTH, TESTED, SMOKE_ROWS = 64, 500, 32
ELSEWHERE = 10_000_000
"""Added to a seed for pairs of no cell's pool: beyond every verdict seed."""
AnyPairRecipe = TypeVar("AnyPairRecipe", bound=PairRecipe)
Rows = Callable[[Cell], Pool]
"""The training rows of a cell."""


def sized_for(recipe: AnyPairRecipe, **changes: Any) -> AnyPairRecipe:
    """The recipe at the size of these images and sentences: towers of two blocks, whole images, since a crop would move shapes from
    cell to cell; everything else as in its own small preset."""
    small = replace(
        recipe,
        image_tower="vit_micro",
        text_tower="text_micro",
        width=WIDTH,
        image_size=SIDE,
        text_length=16,
        pieces=400,
        crop=(1.0, 1.0),
        lr=1e-3,
        warmup=30.0,
        weight_decay=0.05,
        clip_norm=1.0,
    )
    return replace(small, **changes)


@dataclass(frozen=True)
class SeededPairs:
    """Rows of the cell's seed."""

    pairs: SmallPairs

    def __call__(self, cell: Cell) -> Pool:
        return drawn(self.pairs, cell)


def drawn(pairs: SmallPairs, cell: Cell, *, elsewhere: int = 0) -> Pool:
    """Training rows of the cell's seed, or of another seed that no cell trains on; few of them in a smoke test."""
    return (replace(pairs, count=SMOKE_ROWS) if cell.smoke else pairs).pool("train", cell.seed + elsewhere * ELSEWHERE)


def clean_rows(cell: Cell, count: int = TESTED, **changes: Any) -> Pool:
    """Clean test rows of the cell's seed."""
    return SmallPairs(SMOKE_ROWS if cell.smoke else count, **changes).pool("test", cell.seed)


@dataclass(frozen=True)
class Paired:
    """Trains `recipe` on `rows`, then retrieves: "test/t2i_r@1" and the like, the number of rows, and the last value of what is logged.

    prefixes  how many first numbers of each vector are searched with; () takes all of them, else "first_4/t2i_r@1" and so on
    learns    False asks the model as it is before the first step
    """

    recipe: PairRecipe
    rows: Rows
    prefixes: tuple[int, ...] = ()
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = self.rows(cell)
        run = replace(cell, folder=cell.folder / "run")
        model = opened(self.recipe, rows, run) if self.learns else untrained(self.recipe, rows, run)
        scores = {"rows": float(len(rows)), **shares(rows)}
        test = clean_rows(cell)
        for prefix in self.prefixes or (0,):
            name = f"first_{prefix}" if prefix else "test"
            scores |= {f"{name}/{key}": value for key, value in retrieved(model.first(prefix) if prefix else model, test).items()}
        return scores


def shares(rows: Pool) -> dict[str, float]:
    """Share of rows whose text is another image's, where that is known."""
    recorded = "mismatched" in rows.column_names and len(rows)
    return {"mismatched": float(np.mean(rows.column("mismatched")))} if recorded else {}


def retrieved(model: Any, test: Pool, *, origins: tuple[str, ...] = ("alt",)) -> Mapping[str, float]:
    """Metrics of retrieval by the texts that came with the images."""
    task = Retrieval(origins=origins, draws=1)
    return {name: metric.value for name, metric in task.score(task.predict(model, test)).metrics.items()}
