"""Arms about relations: a small detector learns the links between shapes (`world:links`), then is asked for triplets.

A scene has two links, so the first five triplets of a perfect detector hold both. Two of the eight predicates never occur in training:
their words do ("near above": "near left of", "far above").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.config import with_changes
from diptych.core.contracts import Dataset
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.relation_splits import Relabelled
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.tasks.relations.vg150 import VG150
from diptych.worlds.links.world import HELD_OUT, links

SCENES, TESTED, STEPS, SMOKE_ROWS = 4000, 300, 1200, 8
SIDE = 64  # pixels of a scene
Change = Callable[[Sample], Sample]


@lru_cache(maxsize=2)
def drawn(split: str, count: int, seed: int) -> Pool:
    """Scenes of that seed, kept: both arms of a claim see the same ones, many times."""
    return links(count, seed=seed, split=split, size=SIDE).to_pool()  # type: ignore[arg-type]


def small(**changes: Any) -> RLIPv2:
    """The small preset for so many steps."""
    return with_changes(RLIPv2.tiny(), {"steps": STEPS, **changes})


@dataclass(frozen=True)
class Linked:
    """Trains on scenes of the cell's seed, then asks on others of the same seed.

    change        is done to every sample, train_change to those of training alone
    learns        False asks the detector as it is before the first step
    """

    recipe: RLIPv2
    change: Change | None = None
    train_change: Change | None = None
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows: Dataset = drawn("train", SMOKE_ROWS if cell.smoke else SCENES, cell.seed)
        test = drawn("test", SMOKE_ROWS if cell.smoke else TESTED, cell.seed)
        for each in (self.change, self.train_change):
            rows = rows if each is None else Relabelled(rows, each, each.__name__)
        if self.change is not None:
            test = Pool.from_samples([self.change(test[row]) for row in range(len(test))], name=test.name)
        return every_link((opened if self.learns else untrained)(self.recipe, rows, cell), test)


def every_link(model: Any, test: Pool) -> Scores:
    """Recall of triplets among the first five, all names asked for: over scenes, and over the predicates that training had or lacked."""
    task = VG150(ks=(5,), draws=0)
    result = task.score(task.predict(model, test))
    recalls: Mapping[str, float] = result.notes["by_predicate"]
    parts = {
        "unseen": [v for name, v in recalls.items() if name in HELD_OUT],
        "seen": [v for name, v in recalls.items() if name not in HELD_OUT],
    }
    means = {f"{part}/r@5": float(np.mean(values)) if values else 0.0 for part, values in parts.items()}
    return {"r@5": result.metrics["r@5"].value, "mr@5": result.metrics["mr@5"].value, **means}
