"""A cell that trains: one recipe, one seed, one budget; retrieval on held-out splits. Goes on with a run that was killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from diptych.claims.claim import Cell, Scores
from diptych.core.contracts import Dataset, Recipe
from diptych.core.run_folder import RunFolder
from diptych.models.io.deployed import open_model
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.worlds.address import as_drawn, open_data

SMOKE_ROWS = 16


def retrieval_cell(recipe: Recipe, *, data: str = "emoji", parts: Sequence[str]) -> Callable[[Cell], Scores]:
    """What runs an arm: trains `recipe` on the split "train" and returns "PART/METRIC" for every held-out part."""

    def run(cell: Cell) -> Scores:
        pool = open_data(data)
        rows, steps = pool.split("train"), recipe
        held = {part: pool.split(part) for part in parts}
        if cell.smoke:
            rows = rows.select(range(SMOKE_ROWS))
            steps = replace(recipe, steps=2, batch_size=min(recipe.batch_size, 16))
            held = {part: rest.select(range(min(SMOKE_ROWS, len(rest)))) for part, rest in held.items()}
        run_folder = trained(steps, rows, cell)
        model = open_model(run_folder.model)
        task = Retrieval(draws=1)
        scores: dict[str, float] = {}
        for part, rest in held.items():
            result = task.score(task.predict(model, rest))
            scores |= {f"{part}/{name}": metric.value for name, metric in result.metrics.items()}
        return scores | {"train_seconds": run_folder.training_seconds()}

    return run


def trained(recipe: Recipe, rows: Dataset, cell: Cell) -> RunFolder:
    """The finished run of this cell: resumed when its folder holds a part of it."""
    rows = as_drawn(rows, recipe)
    if (cell.folder / "run.json").exists():
        return resume(cell.folder, rows, kind=type(recipe))
    return fit(recipe, rows, cell.folder, TrainOptions(seed=cell.seed, progress=False, save_every=100))
