"""Interfaces of training engines: one step of an engine, and the methods that each engine requires of a recipe.

The loop is one for all of them (`train/fit.py`): run folder, log, checkpoints, resume, hooks, stages and evaluation. An engine
defines a step, and what follows the last one. `Recipe.engine` names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from typing_extensions import TypeVar

from diptych.core.contracts.data import Batch
from diptych.core.contracts.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

M = TypeVar("M", bound="nn.Module", default=Any, contravariant=True)
B = TypeVar("B", bound=Batch, default=Any)
Rowed = TypeVar("Rowed", bound=Batch, default=Any, contravariant=True)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Losses, features and metrics of one training step, without gradient.

    losses    named scalars whose sum was minimised; empty where a step minimises nothing
    features  what they were taken of; None without losses
    batch     whose features those are: that of the step, or what the engine made of it
    numbers   further numbers for the log, equal on all processes
    """

    losses: dict[str, Tensor]
    features: Any
    batch: Batch
    numbers: dict[str, float] = field(default_factory=dict)


class Trainer(Run, Protocol):
    """A run as its engine sees it."""

    @property
    def fresh_rows(self) -> int:
        """Number of rows of this process's batch, from its first on, that belong to the first pass over the data."""

    def features_of(self, model: nn.Module, batch: Batch) -> Any:
        """The recipe's features of a batch by any module of its kind, without gradient, in chunks of `micro_batch`."""

    def autocast(self) -> AbstractContextManager[object]:
        """Region in which a module runs in the run's precision, as in `features_of` and `backward`."""

    def on_device(self, batch: Batch) -> Batch:
        """The batch on the run's device, in its precision."""

    def backward(self, batch: Batch) -> StepOutput:
        """Gradients of the recipe's losses over the global batch, in every parameter's `grad`."""

    def update(self, outcome: StepOutput) -> None:
        """Clips, sets the step's learning rate, moves the parameters, lets the module remember (`Recipe.after_update`)."""

    def summed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over all processes."""


class Engine(Protocol):
    """Training engine, one object a phase of a run. Everything but `step` does nothing by default.

    descends  it takes gradient steps: the run freezes by the rules of the optimiser, builds it, and wraps the module; without, there is
              nothing to evaluate before the end
    once      it wants every sample once at most: a run is cut to one pass over the data
    """

    descends: ClassVar[bool]
    once: ClassVar[bool]

    def begin(self, run: Trainer, model: nn.Module) -> None:
        """When a phase begins, with the bare module on its device before it is wrapped; also on resume, when `load` follows, and
        when `replace_model` brings another module."""

    def step(self, run: Trainer, batch: Batch) -> StepOutput:
        """One training step on a batch. Its random numbers are seeded by (seed, step, rank)."""

    def finish(self, run: Trainer) -> dict[str, float]:
        """Called after the last step of a phase, again when a run resumes there. Returns metrics for the log, empty for none."""
        return {}

    def state(self) -> dict[str, Any]:
        """Checkpoint state beside module, optimiser and hooks: nested dicts of JSON values and tensors."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""


@runtime_checkable
class ClosedFormRecipe(Protocol[M, Rowed]):
    """Recipe of the engine "solve": sums over rows that determine the weights in closed form.

    `features` and `losses` stay what they are: the objective whose minimum `solve` writes into the module.
    """

    def statistics(self, model: M, batch: Rowed) -> dict[str, Tensor]:
        """Sums over the rows of a batch, which may have none; float64, so that order hardly matters. The module is not changed."""

    def solve(self, model: M, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """Write the weights that the totals over all rows determine; returns metrics for the log."""


@runtime_checkable
class PreferenceRecipe(Protocol[M, B]):
    """Recipe of the engine "preference": answers of which one is better, and frozen companion models."""

    def companions(self, model: M) -> dict[str, nn.Module]:
        """Frozen models of the run by name, made at the start of a phase: {"reference": a copy of `model`}, or none where the pairs hold
        log-probabilities of the reference already."""

    def judged(self, batch: B, answers: Mapping[str, Any]) -> B:
        """The batch with scores of the companions, such as log-probabilities, in fields of its own. `answers` holds the features of the
        batch by each companion. Not called in a phase without companions.
        """


@runtime_checkable
class PolicyRecipe(Protocol[M, B]):
    """Recipe of the engine "policy": rollouts of the present model, each used by several updates.

    passes      updates see each rollout this many times
    minibatch   rows an update, over all processes; 0 is the whole rollout
    shuffled    minibatches are redrawn at each pass; else they are consecutive rows
    """

    @property
    def passes(self) -> int: ...

    @property
    def minibatch(self) -> int: ...

    @property
    def shuffled(self) -> bool: ...

    def companions(self, model: M) -> dict[str, nn.Module]:
        """As for `PreferenceRecipe`: the reference policy, a reward model."""

    def rollout(self, model: M, companions: Mapping[str, nn.Module], batch: B) -> B:
        """Sampled answers to a batch of prompts, one row an answer: actions, their present log-probabilities, rewards, advantages.

        There may be more answers than prompts. Without gradient; random numbers from `train.engines.rollouts.RowNoise`, so that several
        processes make what one would, or from torch's generator, which belongs to the step and the process.

        State that lasts from one rollout to the next (a KL controller's coefficient, when a mask model was last refreshed) goes
        into buffers of the model or tensors of a companion, written here: both are in the checkpoints. With several processes it has
        to be written alike on all of them.
        """
