"""Policy-gradient engine: the model answers, is rewarded, and is trained on its own answers (PPO and similar methods)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from diptych.core.contracts import Batch, Engine, StepOutput, Trainer
from diptych.core.errors import ConfigError
from diptych.train.engines.companions import FrozenModels
from diptych.train.engines.requirements import acting
from diptych.train.engines.rollouts import check_rollout, minibatches


class Policy(Engine):
    """A step is one rollout of the model as it is, and `passes` times over its rows an update for every `minibatch` of them. The
    log-probabilities and action masks of the rollout are stored in it, so that `losses` can compare the moving policy with the one that
    acted.

    Minibatches hold rows of all processes, redrawn at each pass where the recipe is `shuffled`, else consecutive. A rollout that takes
    its chances from `rollouts.RowNoise` trains alike on one process and on several. The module acts in evaluation mode and in the precision
    of the updates, so that the first ratio is 1; what a recipe stores of it is widened by `gradient_cache.to_float32`, as features are.
    A step has one learning rate. Losses in the log are the mean over the step's updates, metrics those of the last. A rollout without
    rows, or with a reward that is not finite, ends the run with its row.
    """

    descends: ClassVar[bool] = True
    once: ClassVar[bool] = False
    companions: FrozenModels

    def begin(self, run: Trainer, model: nn.Module) -> None:
        recipe = acting(run.recipe)
        if recipe.passes < 1 or recipe.minibatch < 0:
            raise ConfigError(f"passes is {recipe.passes}, minibatch {recipe.minibatch} (expected at least 1, and 0 or more)")
        self.companions = FrozenModels(recipe.companions(model), model, run.recipe)

    def step(self, run: Trainer, batch: Batch) -> StepOutput:
        recipe = acting(run.recipe)
        run.model.eval()
        with torch.no_grad(), run.autocast():
            rollout = recipe.rollout(run.model, self.companions, batch)
        run.model.train()
        check_rollout(rollout, step=run.step)
        outcomes: list[StepOutput] = []
        for part in minibatches(rollout, recipe.minibatch, passes=recipe.passes, shuffled=recipe.shuffled):
            outcomes.append(run.backward(part))
            run.update(outcomes[-1])
        last = outcomes[-1]
        losses = {name: torch.stack([one.losses[name] for one in outcomes]).mean() for name in last.losses}
        return StepOutput(losses, last.features, last.batch)

    def state(self) -> dict[str, Any]:
        return self.companions.state()

    def load(self, state: dict[str, Any]) -> None:
        self.companions.load(state)
