"""What cells share: training a recipe once, under the cell's seed, rate and share, and the same towers untrained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diptych.claims.cell import Cell
from diptych.core.contracts import Dataset, Recipe
from diptych.core.run_folder import RunFolder
from diptych.models.io.saved_model import open_model
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.worlds.address import cached_for_training

NOT_LOSSES = frozenset({"step", "kind", "seconds", "images_per_second"})


def trained(recipe: Recipe, rows: Dataset, cell: Cell, *, smoke_steps: int = 2, init: str = "") -> RunFolder:
    """The finished run of this cell, counted in its spending: resumed when its folder holds a part of it.

    `init` is a file of weights to start from. Claims train in float32 on every machine, so that machines agree; a trace trains in float64.
    """
    recipe = cell.sized(recipe, smoke_steps=smoke_steps)
    rows = cached_for_training(rows, recipe)
    if can_resume(cell.folder):
        folder = resume(cell.folder, rows, kind=type(recipe))
    else:
        traced = cell.size == "trace"
        options = TrainOptions(
            seed=cell.seed,
            progress=False,
            save_every=100,
            precision="fp64" if traced else "fp32",
            device="cpu",
            log_every=1 if traced else 10,
            init=init,
        )
        with _float64(traced):
            folder = fit(recipe, rows, cell.folder, options)
    cell.spending.add(folder.expect_finished(), type(recipe))
    if cell.size == "trace":
        lines = [line for line in folder.metrics() if line.get("kind") == "train"]
        cell.spending.losses += [{name: value for name, value in line.items() if name not in NOT_LOSSES} for line in lines]
    return folder


def opened(recipe: Recipe, rows: Dataset, cell: Cell, *, smoke_steps: int = 2) -> Any:
    """The trained model of a cell, as `diptych.load` opens it."""
    return open_model(trained(recipe, rows, cell, smoke_steps=smoke_steps).model)


def untrained(recipe: Recipe, rows: Dataset, cell: Cell) -> Any:
    """The same model as it is before the first step: what a metric gives for nothing."""
    prepared = cell.sized(recipe).prepare(rows)
    torch.manual_seed(cell.seed)
    return prepared.deploy(prepared.model().eval())


def can_resume(folder: Path) -> bool:
    """Whether there is a run to go on with; one that was killed before it wrote its configuration is removed."""
    if not folder.exists():
        return False
    if (folder / "run.json").is_file() and (folder / "config.yaml").is_file() and "data" in RunFolder.open(folder).state:
        return True
    shutil.rmtree(folder)
    return False


@contextmanager
def _float64(wanted: bool) -> Iterator[None]:
    """Tensors that a model makes on its way are of double precision too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if wanted else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
