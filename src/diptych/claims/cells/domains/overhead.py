"""Arms that tune a small CLIP on views from above, in full or by parameters beside frozen weights.

The start is a CLIP that was trained on upright views; the tuning goes over to views at any rotation. What the start could do on upright views
is measured before and after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS, TESTED, retrieved
from diptych.claims.training import trained
from diptych.data.dataset import Pool
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.domains.georsclip import GeoRSCLIP
from diptych.worlds.overhead.world import Split, Turned, overhead

SIDE = 48
KS = (1, 5, 10)


@dataclass(frozen=True)
class TunedOverhead:
    """Mean recall (of 1, 5 and 10, both ways) on views at any rotation ("target/mean_recall"), on upright ones ("source/mean_recall") and
    before the tuning ("start/target", "start/source").

    start   is trained first, on `count` upright views
    recipe  tunes it, on as many at any rotation
    learns  False measures the start
    """

    start: CLIP
    recipe: GeoRSCLIP
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        first = views(cell, "train", self.count, "upright")
        vocabulary = self.start.prepare(first).vocabulary
        base = trained(replace(self.start, vocabulary=vocabulary), first, cell.part("start"))
        model = open_model(base.model)
        before = mean_recalls(model, cell)
        after = before
        if self.learns:
            recipe = replace(self.recipe, vocabulary=vocabulary)
            part = replace(cell, folder=cell.folder / "tuned")
            run = trained(recipe, views(cell, "train", self.count, "any"), part, init=str(base.path))
            after = mean_recalls(open_model(run.model), cell)
        return {f"start/{name}": value for name, value in before.items()} | {
            f"{name}/mean_recall": value for name, value in after.items()
        }


def views(cell: Cell, split: Split, count: int, turned: Turned) -> Pool:
    """Rows of the cell's seed with English captions."""
    data = overhead(SMOKE_ROWS if cell.smoke else count, seed=cell.seed, split=split, size=SIDE, languages=("en",), turned=turned)
    return data.to_pool()


def mean_recalls(model: Any, cell: Cell) -> dict[str, float]:
    """Mean recall on fresh views: "target" at any rotation, "source" upright."""
    parts: dict[str, Turned] = {"target": "any", "source": "upright"}
    return {name: mean_recall(model, views(cell, "test", TESTED, turned)) for name, turned in parts.items()}


def mean_recall(model: Any, test: Pool) -> float:
    """Mean of recall at 1, 5 and 10 in both directions (mR of the retrieval tables of remote sensing)."""
    scores = retrieved(model, test, origins=())
    return sum(scores[f"r@{k}"] for k in KS) / len(KS)
