"""Cells of claims about relations: a small detector learns the links between shapes (`world:links`), then is asked for triplets.

A scene has two links, so the first five triplets of a perfect detector hold both. Two of the eight predicates never occur in training:
their words do ("near above": "near left of", "far above").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.claims.claim import Cell, Scores
from diptych.claims.training import trained
from diptych.core.contracts import Dataset
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.relation_splits import Relabelled
from diptych.models.io.deployed import open_model
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.tasks.relations.vg150 import VG150
from diptych.worlds.links import HELD_OUT, links

SCENES, TESTED, STEPS = 4000, 300, 1200
BUDGET = f"{STEPS:,} steps x {RLIPv2.tiny().batch_size} scenes, same detector and schedule"
DATA = f"{SCENES:,} rendered scenes of linked shapes, {TESTED} of the same seed to test"
SOURCES = (
    "diptych.claims.linked_shapes",
    "diptych.claims.training",
    "diptych.recipes.relations.rlipv2",
    "diptych.recipes._shared.scene_graphs",
    "diptych.models.rlipv2.relation_detector",
    "diptych.models.rlipv2.language_fusion",
    "diptych.models.pairs.label_classifier",
    "diptych.objectives.boxes.pair_set",
    "diptych.objectives.boxes.relation_quality",
    "diptych.worlds.links",
)
"""What decides the outcome of every such cell."""
SMOKE_ROWS = 8
SIDE = 64  # pixels of a scene
JITTER = 0.25  # of a shape's side, by which each edge of a box is off at most
Change = Callable[[Sample], Sample]


@lru_cache(maxsize=2)
def drawn(split: str, count: int, seed: int) -> Pool:
    """Scenes of that seed, kept: both arms of a claim see the same ones, many times."""
    return links(count, seed=seed, split=split, size=SIDE).to_pool()  # type: ignore[arg-type]


def small(**changes: Any) -> RLIPv2:
    """The small preset for so many steps."""
    return replace(RLIPv2.tiny(), steps=STEPS, **changes)


def link_cell(recipe: RLIPv2, *, change: Change | None = None, train_change: Change | None = None) -> Callable[[Cell], Scores]:
    """What runs an arm: trains on scenes of the cell's seed, then asks on others of the same seed.

    change        is done to every sample, train_change to those of training alone
    """

    def run(cell: Cell) -> Scores:
        rows: Dataset = drawn("train", SMOKE_ROWS if cell.smoke else SCENES, cell.seed)
        test = drawn("test", SMOKE_ROWS if cell.smoke else TESTED, cell.seed)
        for each in (change, train_change):
            rows = rows if each is None else Relabelled(rows, each, each.__name__)
        if change is not None:
            test = Pool.from_samples([change(test[row]) for row in range(len(test))], name=test.name)
        chosen = replace(recipe, steps=2, batch_size=SMOKE_ROWS) if cell.smoke else recipe
        run_folder = trained(chosen, rows, cell)
        scores = dict(every_link(open_model(run_folder.model), test))
        return scores | {"train_seconds": run_folder.training_seconds()}

    return run


def every_link(model: Any, test: Pool) -> Scores:
    """Recall of triplets among the first five, all names asked for: over scenes, and over the predicates that training had or lacked."""
    task = VG150(ks=(5,), draws=0)
    result = task.score(task.predict(model, test))
    found: Mapping[str, float] = result.notes["by_predicate"]
    parts = {
        "unseen": [v for name, v in found.items() if name in HELD_OUT],
        "seen": [v for name, v in found.items() if name not in HELD_OUT],
    }
    means = {f"{part}/r@5": float(np.mean(values)) if values else 0.0 for part, values in parts.items()}
    return {"r@5": result.metrics["r@5"].value, "mr@5": result.metrics["mr@5"].value, **means}


def with_colours(sample: Sample) -> Sample:
    """Every shape is named by its colour as well: 48 names in place of 6."""
    return replace(sample, regions=tuple(replace(r, label=f"{r.attributes[0]} {r.label}") for r in sample.regions))


def jittered(sample: Sample) -> Sample:
    """Boxes as a hasty annotator draws them: each side is off by up to a quarter of the shape. The same every time."""
    rng = keyed_rng("jittered", sample.uid)
    moved = []
    for region in sample.regions:
        x0, y0, x1, y1 = region.box
        side_4 = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        x0, y0, x1, y1 = (np.array(region.box) + rng.uniform(-JITTER, JITTER, 4) * side_4).clip(0, SIDE).tolist()
        moved.append(replace(region, box=(x0, y0, x1, y1), mask=None))
    return replace(sample, regions=tuple(moved))
