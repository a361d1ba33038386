"""Arms about rare predicates: links whose predicates come up by Zipf's law are learned, then all eight are asked for equally often.

Boxes and labels are given (PredCls). Every score comes twice, as ranked and after the relation NMS of PE-Net's scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.config import with_changes
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.recipes.relations.penet import PENet
from diptych.tasks.relations.vg150 import VG150PredCls
from diptych.worlds.links.tailed import TailedLinkWorld, tailed_links
from diptych.worlds.links.world import Split

SCENES, TESTED, STEPS, SMOKE_ROWS = 3000, 400, 600, 8
SIDE = 48
RARE = 4
"""Of the eight predicates."""
Change = Callable[[Sample], Sample]


def small(**changes: Any) -> PENet:
    """The small preset on given boxes and labels, for so many steps."""
    return with_changes(PENet.tiny(), {"setting": "predcls", "image_size": SIDE, "steps": STEPS, **changes})


@lru_cache(maxsize=4)
def drawn(split: Split, count: int, seed: int, change: Change | None) -> Pool:
    """Scenes of that seed, kept: both arms of a claim see the same ones."""
    rows = tailed_links(count, seed=seed, split=split, size=SIDE, exponent=1.5)
    return Pool.from_samples([rows[row] if change is None else change(rows[row]) for row in range(len(rows))], name=rows.name)


@dataclass(frozen=True)
class Tailed:
    """Trains on scenes of the cell's seed, then asks on others of the same seed.

    change   is done to every sample
    learns   False asks the network as it is before the first step
    """

    recipe: PENet
    change: Change | None = None
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = drawn("train", SMOKE_ROWS if cell.smoke else SCENES, cell.seed, self.change)
        test = drawn("test", SMOKE_ROWS if cell.smoke else TESTED, cell.seed, self.change)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        return every_predicate(model, test, TailedLinkWorld(cell.seed).ranked()[-RARE:])


def every_predicate(model: Any, test: Pool, rare: tuple[str, ...]) -> Scores:
    """Recall of triplets among the first five: over scenes (r), over predicates (mr), over the rare ones; "nms/" after relation NMS."""
    task = VG150PredCls(ks=(5,), draws=0)
    rows = task.predict(model, test)
    scores: dict[str, float] = {}
    for prefix, scorer in (("", task), ("nms/", replace(task, relation_nms=True))):
        result = scorer.score(rows)
        recalls: Mapping[str, float] = result.notes["by_predicate"]
        kept = [value for name, value in recalls.items() if name in rare]
        scores |= {f"{prefix}{name}@5": result.metrics[f"{name}@5"].value for name in ("r", "mr")}
        scores[f"{prefix}rare/r@5"] = float(np.mean(kept)) if kept else 0.0
    return scores
