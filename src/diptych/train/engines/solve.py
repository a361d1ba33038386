"""Closed-form engine: one pass over the data accumulates sums, from which the weights are computed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diptych.core.contracts import Batch, Engine, StepOutput, Trainer
from diptych.core.errors import RunError
from diptych.train.engines.requirements import solvable


class Solve(Engine):
    """A step adds the sums of its batch, of all processes, to the totals; the last one is followed by `Recipe.solve`.

    Every sample counts once: rows by which the last batch reaches into a second pass are left out. The totals are in the
    checkpoints, so a run that is resumed ends in the same bytes. Until the end the module is what it was at the start.
    """

    descends: ClassVar[bool] = False
    once: ClassVar[bool] = True

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def begin(self, run: Trainer, model: nn.Module) -> None:
        solvable(run.recipe)

    @torch.no_grad()
    def step(self, run: Trainer, batch: Batch) -> StepOutput:
        mine = solvable(run.recipe).statistics(run.model, batch.rows(0, run.fresh_rows))
        for name, value in run.summed(mine).items():
            self.totals[name] = self.totals[name].to(value.device) + value if name in self.totals else value
        return StepOutput({}, None, batch)

    @torch.no_grad()
    def finish(self, run: Trainer) -> dict[str, float]:
        if not self.totals:
            raise RunError(f"'{run.recipe.slug}' took no step, so there is nothing to solve")
        device = next(run.model.parameters()).device
        totals = {name: value.to(device) for name, value in self.totals.items()}
        return solvable(run.recipe).solve(run.model, totals)

    def state(self) -> dict[str, Any]:
        return dict(self.totals)

    def load(self, state: dict[str, Any]) -> None:
        self.totals = dict(state)
