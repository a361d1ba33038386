"""Preferences: gradient steps on answers that were judged, measured against models that stay as they are (DPO and its kin)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from diptych.core.contracts import Batch, Engine, StepOutput, Trainer
from diptych.train.engines.companions import FrozenModels
from diptych.train.engines.requirements import preferring


class Preference(Engine):
    """A step asks every companion about the batch first; what they say travels in the batch, as rows. Then backward and update are
    those of `Supervised`, gradient caching included, and `losses` needs no model but the one that is trained."""

    descends: ClassVar[bool] = True
    once: ClassVar[bool] = False
    companions: FrozenModels

    def begin(self, run: Trainer, model: nn.Module) -> None:
        self.companions = FrozenModels(preferring(run.recipe).companions(model), model, run.recipe)

    def step(self, run: Trainer, batch: Batch) -> StepOutput:
        answers = {name: run.features_of(companion, batch) for name, companion in self.companions.items()}
        outcome = run.backward(preferring(run.recipe).judged(batch, answers))
        run.update(outcome)
        return outcome

    def state(self) -> dict[str, Any]:
        return self.companions.state()

    def load(self, state: dict[str, Any]) -> None:
        self.companions.load(state)
