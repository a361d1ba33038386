"""Log lines of training steps: losses, metrics, speed, and the samples that could not be read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from diptych.core.contracts import StepOutput
from diptych.train import parallel
from diptych.train.log import Log
from diptych.train.parallel import DistributedContext, gather_text

if TYPE_CHECKING:
    from diptych.train.state import Training


class StepLog:
    """Writes a line to the journal of a run every so many steps.

    failures  JSON of the samples that this process could not read since they were last written
    """

    def __init__(self, journal: Log, world: DistributedContext, log_every: int) -> None:
        self.journal, self.world, self.log_every = journal, world, log_every
        self.failures: list[str] = []
        self._since, self._logged = time.perf_counter(), 0

    def report(self, run: Training, outcome: StepOutput) -> dict[str, float]:
        """Losses of the step as floats, averaged over processes; logs a line when one is due."""
        due = run.step % self.log_every == 0 or run.step == run.steps
        if not (due or run.hooks):
            self.journal.advance(run.step)
            return {}
        losses = parallel.all_reduce_mean(outcome.losses, self.world)
        loss = sum(losses.values()) if losses else None
        if due:
            values: dict[str, float] = dict(losses)
            if losses:
                with torch.no_grad():
                    values |= parallel.all_reduce_mean(run.recipe.metrics(outcome.features, outcome.batch), self.world)
            if run.engine.descends:
                values |= {"lr": run.rate, "grad_norm": run.grad_norm}
            now = time.perf_counter()
            seconds, steps = now - self._since, run.step - self._logged
            values |= {"images_per_second": steps * run.recipe.batch_size / seconds, "seconds": seconds / steps}
            values |= outcome.numbers
            if loss is not None:
                values = {"loss": loss} | values | {"loss": loss}  # the sum comes first, also where a term bears that name
            self.journal.write(run.step, "train" if losses else run.recipe.engine, **values)
            self._since, self._logged = now, run.step
            self.write_failures()
        self.journal.advance(run.step, loss)
        return losses

    def restart_clock(self, step: int) -> None:
        """Leaves what came between two steps (evaluation, saving) out of the speed."""
        self._since, self._logged = time.perf_counter(), step

    def write_failures(self) -> None:
        """Write down the samples that any process could not read."""
        for text in gather_text("\n".join(self.failures), self.world):
            self.journal.quarantine(text)
        self.failures.clear()
