"""Training shared by cells: a recipe once, under the cell's seed, rate and share, and the same towers untrained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diptych.claims.cell import Cell
from diptych.core.contracts import Dataset, Optimiser, Recipe
from diptych.core.errors import RunError
from diptych.core.run_folder import RunFolder
from diptych.models.io.saved_model import open_model
from diptych.train.fit import fit, resume
from diptych.train.optimise import schedule
from diptych.train.options import TrainOptions
from diptych.worlds.address import cached_for_training

NOT_LOSSES = frozenset({"step", "kind", "seconds", "images_per_second", "tflops", "mfu"})
FIRST_STEPS, EVERY = 4, 8
"""Logged steps that a trace keeps: the first, each so many, and the last."""
SAMPLED = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)
"""Shares of a full training at which a trace asks for the learning rate."""
UNCOUNTED = 1000
"""Steps that stand for a training that is counted in epochs."""


_refused = False


@contextmanager
def without_training() -> Iterator[None]:
    """Within, `trained` raises RunError, for cells too that a cell makes by itself."""
    global _refused
    before, _refused = _refused, True
    try:
        yield
    finally:
        _refused = before


def trained(recipe: Recipe, rows: Dataset, cell: Cell, *, smoke_steps: int = 2, init: str = "") -> RunFolder:
    """The finished run of this cell, counted in its spending: resumed when its folder holds a part of it.

    `init` is a file of weights to start from. Claims train in float32 on every machine, so that machines agree; a trace trains in float64.
    Raises RunError for a raw-input control (`Cell.instead`): it leaves no run, so a cell that trains in stages takes none.
    """
    if cell.instead is not None or _refused:
        raise RunError(f"'{cell.arm}' trains in stages, each from the files of the one before; a raw-input control leaves none")
    full = recipe if cell.rate is None else replace(recipe, lr=cell.rate)
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
        kept = [line for step, line in enumerate(lines, 1) if step <= FIRST_STEPS or step % EVERY == 0 or step == len(lines)]
        cell.spending.losses += [{name: value for name, value in line.items() if name not in NOT_LOSSES} for line in kept]
        cell.spending.schedules.append(scheduled(full.optimiser(), full.steps or UNCOUNTED))
    return folder


def scheduled(spec: Optimiser, steps: int) -> list[float]:
    """[len(SAMPLED)]: learning rates that the loop sets over so many steps, from the first to the last, without training."""
    parameter = torch.nn.Parameter(torch.zeros(()))
    groups = [{"params": [parameter], "scale": 1.0, "length": 1.0, "betas": spec.betas}]
    optimiser = torch.optim.SGD(groups, lr=spec.lr)
    rates = []
    for share in SAMPLED:
        schedule(optimiser, spec, round(share * (steps - 1)), steps)
        rates.append(float(optimiser.param_groups[0]["lr"]))
    return rates


def opened(recipe: Recipe, rows: Dataset, cell: Cell, *, smoke_steps: int = 2) -> Any:
    """The trained model of a cell, as `diptych.load` opens it; in its place the cell's raw-input control, where it has one."""
    if cell.instead is not None:
        return cell.instead(recipe, rows)
    return open_model(trained(recipe, rows, cell, smoke_steps=smoke_steps).model)


def untrained(recipe: Recipe, rows: Dataset, cell: Cell) -> Any:
    """The same model as it is before the first step: what a metric gives for nothing. Or the cell's raw-input control."""
    if cell.instead is not None:
        return cell.instead(recipe, rows)
    if _refused:
        raise RunError(f"'{cell.arm}' needs a second model beside the one that it compares")
    prepared = cell.sized(recipe).prepare(rows)
    torch.manual_seed(cell.seed)
    return prepared.deploy(prepared.model().eval())


def can_resume(folder: Path) -> bool:
    """True if the folder holds a run to resume; one that was killed before it wrote its configuration is removed."""
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
