"""What must not change what a recipe learns: features computed a few rows at a time, a second process, a stop.

This file brings a recipe into each of the three; the test of each system says what is compared, how closely, and where it stops.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from joined_processes import on_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diptych.core.contracts import Batch, Dataset, Hook, Recipe
from diptych.core.run_folder import RunFolder
from diptych.train.fit import fit, resume
from diptych.train.gradient_cache import backward
from diptych.train.options import TrainOptions
from diptych.train.parallel import unsynced


def gradients(recipe: Recipe, model: nn.Module, batch: Batch, *, micro_batch: int) -> dict[str, Tensor]:
    """Of every trained parameter, by name; `micro_batch` rows at a time, or with 0 all at once."""
    model.zero_grad()
    backward(recipe, model, batch, micro_batch=micro_batch)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def updated(recipe: Recipe, model: nn.Module, batches: Sequence[Batch], rank: int, world: int) -> dict[str, Tensor]:
    """Parameters, buffers and the last gradients after `after_update` on this process's share of each batch, three rows at a time where
    the recipe's features can be computed so."""
    wrapped = DistributedDataParallel(model) if world > 1 else model
    for batch in batches:
        model.zero_grad()
        share = batch.rows(rank * len(batch) // world, (rank + 1) * len(batch) // world)
        outcome = backward(recipe, wrapped, share, micro_batch=3 if recipe.cacheable else 0, unsynced=unsynced(wrapped))
        recipe.after_update(model, outcome.features, share, 0.1)
    return {**model.state_dict(), **{f"grad {name}": p.grad for name, p in model.named_parameters() if p.requires_grad}}


def on_two_processes(work: Callable[[int, int], Any], folder: Path) -> list[Any]:
    """What `work(rank, world)`, a function of a test file, returns on either of two processes joined by gloo."""
    return on_processes(work, folder)


class StopAt(Hook):
    """Sends a SIGTERM once, before a step."""

    name = "stop"

    def __init__(self, step: int, marker: Path) -> None:
        self.step, self.marker = step, marker

    def before_step(self, run: Any, batch: Any) -> None:
        if run.step == self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_and_resumed(recipe: Recipe, data: Dataset, folder: Path, options: TrainOptions, *, step: int) -> RunFolder:
    """A run that was told to stop before `step`, stopped after it, and then went on to its end."""
    kind, hooks = type(recipe), type(recipe).hooks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "hooks", lambda self: [*hooks(self), StopAt(step, folder / "stopped")])
        run = fit(recipe, data, folder / "run", options)
        assert (folder / "stopped").exists()
        last = step == recipe.steps - 1  # the step that was asked to stop is done, and nothing is left behind the last one
        assert run.state["status"] == ("finished" if last else "stopped")
        run = resume(run.path, data)
        assert run.state["status"] == "finished"
        return run
