"""A run in progress, as hooks and engines see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from diptych.core.contracts.data import Batch, Dataset

if TYPE_CHECKING:
    from torch import nn

    from diptych.core.contracts.recipe import Recipe, Stage


class Run(Protocol):
    """A run in progress, as a hook sees it."""

    @property
    def step(self) -> int:
        """Optimiser steps taken."""

    @property
    def steps(self) -> int: ...

    @property
    def model(self) -> nn.Module:
        """The bare module, not its data-parallel wrapper."""

    @property
    def data(self) -> Dataset: ...

    @property
    def whole_data(self) -> Dataset:
        """The data set that the run was given; `data` is that of the present stage."""

    @property
    def recipe(self) -> Recipe: ...

    def log(self, kind: str, **values: Any) -> None: ...

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Lists samples that cannot be used in the run's quarantine, uid -> reason: each costs itself alone. Raises DataError if there are
        more of them than the run's limit."""

    def batches(self, count: int, *, seed: int) -> Iterator[Batch]:
        """Extra batches in an order of their own, for re-clustering or short trials; the run's own order is untouched."""

    @property
    def snapshots(self) -> Path:
        """Folder of `snapshot`; holds models only, and small files that describe them."""

    @property
    def scratch(self) -> Path:
        """Folder for parts of what `Stage.make` makes, so that a run that is stopped within it goes on from there; may not exist yet."""

    def snapshot(self, name: str) -> None:
        """Save the present model for inference into `snapshots/NAME`, in the form of `model/`; replaces one of that name."""

    def ahead(self, count: int) -> Iterator[Batch]:
        """The batches of the next `count` steps, that of the step in hand first, as this process gets them; fewer at the end of a
        stage. The run's own stream is untouched. For what has to be known of an episode before it is trained on."""

    def replace_model(self, model: nn.Module, grown: Mapping[nn.Parameter, nn.Parameter] = ...) -> None:
        """Train another module from the next step on (growth, surgery): wraps it and rebuilds the optimiser, keeping the
        state of every parameter object that is in both. `grown` maps a new parameter to the one that it extends at the end of its
        axes: it takes over that one's state, with zeros where it is new."""


class Hook:
    """Callback of a training run. Every method does nothing by default; override what you need.

    State of a hook goes through `state` (plain JSON values and tensors, nested dicts); it is saved with every
    checkpoint. `reshape` is called on resume, after `load`, with the freshly built model and before weights are loaded: a hook
    that changed the model's structure repeats that here.
    """

    name: ClassVar[str] = ""

    def on_start(self, run: Run) -> None:
        """Called once a process, also when a run resumes."""

    def before_step(self, run: Run, batch: Batch) -> None: ...

    def after_step(self, run: Run, losses: Mapping[str, float]) -> None: ...

    def on_epoch(self, run: Run, epoch: int) -> None: ...

    def on_stage(self, run: Run, stage: Stage) -> None: ...

    def on_stage_end(self, run: Run, stage: Stage) -> None: ...

    def on_end(self, run: Run) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None: ...

    def reshape(self, model: nn.Module) -> nn.Module:
        return model
