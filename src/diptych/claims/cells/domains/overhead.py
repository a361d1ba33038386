"""Arms that tune a small CLIP on views from above, in full or by parameters beside frozen weights.

The start is a CLIP of general pictures (`worlds/small_pairs`) and of some upright views; the tuning goes over to views at any rotation. How
much it still knows of general pictures is measured before and after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS, clean_rows, drawn, retrieved
from diptych.claims.training import trained
from diptych.data.dataset import Pool
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.domains.georsclip import GeoRSCLIP
from diptych.worlds.overhead.world import Split, Turned, overhead
from diptych.worlds.small_pairs import SmallPairs

SIDE, ASKED = 48, 300
KS = (1, 5, 10)


@dataclass(frozen=True)
class TunedOverhead:
    """Mean recall (of 1, 5 and 10, both ways) on views at any rotation ("target/mean_recall"), on general pictures ("source/mean_recall"),
    and both before the tuning ("start/target", "start/source").

    start   is trained first, on `count` general pictures and as many upright views
    recipe  tunes it, on as many views at any rotation
    learns  False measures the start
    """

    start: CLIP
    recipe: GeoRSCLIP
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        first = start_rows(cell, self.count)
        vocabulary = self.start.prepare(first).vocabulary
        base = trained(replace(self.start, vocabulary=vocabulary), first, cell.part("start"))
        before = mean_recalls(open_model(base.model), cell)
        after = before
        if self.learns:
            recipe = replace(self.recipe, vocabulary=vocabulary)
            part = replace(cell, folder=cell.folder / "tuned")
            run = trained(recipe, views(cell, "train", self.count, "any"), part, init=str(base.path))
            after = mean_recalls(open_model(run.model), cell)
        return {f"start/{name}": value for name, value in before.items()} | {
            f"{name}/mean_recall": value for name, value in after.items()
        }


def start_rows(cell: Cell, count: int) -> Pool:
    """General pictures and upright views of the cell's seed."""
    pools = (drawn(SmallPairs(count), cell), views(cell, "train", count, "upright"))
    return Pool.from_samples((pool[row] for pool in pools for row in range(len(pool))), name="pictures and upright views")


def views(cell: Cell, split: Split, count: int, turned: Turned) -> Pool:
    """Views of the cell's seed with English captions."""
    rows = SMOKE_ROWS if cell.smoke else count
    return overhead(rows, seed=cell.seed, split=split, size=SIDE, languages=("en",), turned=turned).to_pool()


def mean_recalls(model: Any, cell: Cell) -> dict[str, float]:
    """Mean recall on fresh rows: "target" are views at any rotation, "source" general pictures."""
    parts = {"target": views(cell, "test", ASKED, "any"), "source": clean_rows(cell, ASKED)}
    return {name: mean_recall(model, rows) for name, rows in parts.items()}


def mean_recall(model: Any, test: Pool) -> float:
    """Mean of recall at 1, 5 and 10 in both directions (mR of the retrieval tables of remote sensing)."""
    scores = retrieved(model, test, origins=())
    return sum(scores[f"r@{k}"] for k in KS) / len(KS)
