"""Gradient steps on the losses of a batch: the engine of nearly every recipe."""

from __future__ import annotations

from typing import ClassVar

from diptych.core.contracts import Batch, Engine, StepOutput, Trainer


class Supervised(Engine):
    """A step is one backward pass over the batch and one update."""

    descends: ClassVar[bool] = True
    once: ClassVar[bool] = False

    def step(self, run: Trainer, batch: Batch) -> StepOutput:
        outcome = run.backward(batch)  # features in chunks, losses once, gradients of the whole batch
        run.update(outcome)  # clipping, optimiser, what the module remembers
        return outcome
