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
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
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
    mp.spawn(_joined, args=(2, str(folder), work), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _joined(rank: int, world: int, folder: str, work: Callable[[int, int], Any]) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save(work(rank, world), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


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
