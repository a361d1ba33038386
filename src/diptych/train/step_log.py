"""Log lines of training steps: losses, metrics, speed, and the samples that could not be read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diptych.core.config import to_plain
from diptych.core.contracts import StepOutput
from diptych.data.load.stream import SampleFailure
from diptych.train import parallel
from diptych.train.devices.flops import speed
from diptych.train.devices.late import LateNumbers, LateValues
from diptych.train.log import Log
from diptych.train.parallel import DistributedContext, gather_text

if TYPE_CHECKING:
    from diptych.train.state import Training


class StepLog:
    """Writes a line to the journal of a run every this many steps.

    failures  JSON of the samples that this process could not read since they were last written
    """

    def __init__(self, journal: Log, world: DistributedContext, log_every: int) -> None:
        self.journal, self.world, self.log_every = journal, world, log_every
        self.failures: list[str] = []
        self._since, self._logged = time.perf_counter(), 0
        self._waiting: Callable[[], None] | None = None

    def report(self, run: Training, outcome: StepOutput) -> Mapping[str, float]:
        """Losses of the step as numbers, averaged over processes; logs a line when one is due.

        On a GPU the line is written at the next call, or by `flush`, and losses are read when a hook looks at them: the host runs ahead.
        """
        self.flush()
        due = run.step % self.log_every == 0 or run.step == run.steps
        if not (due or run.hooks):
            self.journal.advance(run.step)
            return {}
        losses = self._mean(outcome.losses)
        if not due:
            self.journal.advance(run.step, None if isinstance(losses, LateNumbers) or not losses else sum(losses.values()))
            return losses
        metrics: Mapping[str, float] = {}
        if losses:
            with torch.no_grad():
                metrics = self._mean(run.recipe.metrics(outcome.features, outcome.batch))
        now = time.perf_counter()
        seconds, steps = now - self._since, run.step - self._logged
        rates = {"images_per_second": steps * run.recipe.batch_size / seconds, "seconds": seconds / steps}
        if run.flops:
            rates |= speed(run.flops * steps / seconds, run.precision, self.world.device)
        lr = {"lr": run.rate} if run.engine.descends else {}
        step, engine, norm = run.step, run.recipe.engine, run.grad_norm
        parts = self._mean(run.part_norms.values)  # equal on all processes, since gradients are

        def write() -> None:
            values = {**losses, **metrics, **lr}
            if lr:
                values["grad_norm"] = norm if isinstance(norm, float) else norm.tolist()[0]
            values |= {**parts, **rates, **outcome.numbers}
            loss = sum(losses.values()) if losses else None
            if loss is not None:
                values = {"loss": loss} | values | {"loss": loss}  # the sum comes first, also where a term bears that name
            self.journal.write(step, "train" if losses else engine, **values)
            self.journal.advance(step, loss)

        self._since, self._logged = now, run.step
        self._waiting = write
        if not isinstance(losses, LateNumbers):
            self.flush()
        self.write_failures()
        return losses

    def flush(self) -> None:
        """Writes the line that waits for its numbers."""
        write, self._waiting = self._waiting, None
        if write is not None:
            write()

    def _mean(self, values: Mapping[str, Tensor]) -> Mapping[str, float]:
        if self.world.device.type != "cuda" or not values:
            return parallel.all_reduce_mean(values, self.world)
        return LateNumbers(list(values), LateValues(parallel.mean_on_device(values, self.world)))

    def restart_clock(self, step: int) -> None:
        """Leaves what came between two steps (evaluation, saving) out of the speed."""
        self.flush()
        self._since, self._logged = time.perf_counter(), step

    def failed(self, failures: Iterable[SampleFailure]) -> None:
        """Keep samples that could not be read for the next line."""
        self.failures += [json.dumps(to_plain(failure), ensure_ascii=False) for failure in failures]

    def write_failures(self) -> None:
        """Write down the samples that any process could not read."""
        for text in gather_text("\n".join(self.failures), self.world):
            self.journal.quarantine(text)
        self.failures.clear()
