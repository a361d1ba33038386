"""Recipes of a few numbers, one for each engine beside the supervised one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from toy import ToyDeployed, toy_pool

from diptych.core.contracts import Draws, Optimiser, Recipe
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch
from diptych.objectives.policy.action_masks import drawn_actions
from diptych.objectives.policy.advantages import standardised
from diptych.objectives.policy.surrogate import clipped_surrogate
from diptych.train.engines.companions import frozen_copy
from diptych.train.engines.rollouts import RowNoise

PROMPTS, ACTIONS, BETA, CLIP = 6, 4, 0.5, 0.2


class Table(nn.Module):
    """Log-probabilities of each action for each prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_PA = nn.Parameter(torch.randn(PROMPTS, ACTIONS, dtype=torch.float64))

    def forward(self, prompt_B: Tensor) -> Tensor:
        return self.logit_PA[prompt_B].log_softmax(1)


@dataclass(frozen=True, kw_only=True)
class Tabular(Recipe):
    needs: ClassVar[tuple[str, ...]] = ()
    batch_size: int = 8
    steps: int = 6
    lr: float = 0.3

    def model(self) -> nn.Module:
        return Table()

    def optimiser(self) -> Optimiser:
        return Optimiser(kind="sgd", lr=self.lr, betas=(0.0, 0.0), weight_decay=0.0, schedule="constant")

    def companions(self, model: nn.Module) -> dict[str, nn.Module]:
        return {"reference": frozen_copy(model)}

    def deploy(self, model: nn.Module) -> ToyDeployed:
        return ToyDeployed(model)

    @classmethod
    def tiny(cls) -> Self:
        return cls()

    @classmethod
    def paper(cls) -> Self:
        return cls()


def prompts(draws: Draws) -> Tensor:
    return torch.tensor([int(draw.sample.uid[1:]) % PROMPTS for draw in draws])


# ---------------------------------------------------------------- preference


@dataclass(frozen=True)
class Judged(TensorBatch):
    prompt_B: Rows[Tensor]
    better_B: Rows[Tensor]
    worse_B: Rows[Tensor]
    reference_better_B: Rows[Tensor] | None = None
    reference_worse_B: Rows[Tensor] | None = None


@dataclass(frozen=True)
class Answers:
    better_B: Rows[Tensor]
    worse_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class Prefer(Tabular):
    """DPO (2305.18290): action p % A is better than action (p + 1) % A."""

    slug = "prefer"
    engine = "preference"

    def batch(self, draws: Draws) -> Judged:
        prompt_B = prompts(draws)
        return Judged(prompt_B, prompt_B % ACTIONS, (prompt_B + 1) % ACTIONS)

    def features(self, model: nn.Module, batch: Judged) -> Answers:
        said_BA = model(batch.prompt_B)
        return Answers(*(said_BA.gather(1, one_B[:, None])[:, 0] for one_B in (batch.better_B, batch.worse_B)))

    def judged(self, batch: Judged, said: Mapping[str, Answers]) -> Judged:
        reference = said["reference"]
        return replace(batch, reference_better_B=reference.better_B, reference_worse_B=reference.worse_B)

    def losses(self, features: Answers, batch: Judged) -> dict[str, Tensor]:
        margin_B = features.better_B - batch.reference_better_B - features.worse_B + batch.reference_worse_B
        return {"preference": -nn.functional.logsigmoid(BETA * margin_B).mean()}


@dataclass(frozen=True)
class Rollout(TensorBatch):
    prompt_B: Rows[Tensor]
    action_B: Rows[Tensor] | None = None
    log_prob_B: Rows[Tensor] | None = None
    advantage_B: Rows[Tensor] | None = None
    reward_B: Rows[Tensor] | None = None
    texts: Rows[tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Taken:
    log_prob_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class Bandit(Tabular):
    """PPO with a clipped ratio (1707.06347); action p % A is rewarded, leaving the reference costs."""

    slug = "bandit"
    engine = "policy"
    passes: int = 3
    minibatch: int = 3
    shuffled: bool = False

    def batch(self, draws: Draws) -> Rollout:
        return Rollout(prompts(draws))

    def rollout(self, model: nn.Module, companions: Mapping[str, nn.Module], batch: Rollout) -> Rollout:
        assert not model.training
        said_BA = model(batch.prompt_B)
        action_B = torch.multinomial(said_BA.exp(), 1)[:, 0]
        log_prob_B, reference_B = (m(batch.prompt_B).gather(1, action_B[:, None])[:, 0] for m in (model, companions["reference"]))
        reward_B = (action_B == batch.prompt_B % ACTIONS).double() - 0.01 * (log_prob_B - reference_B)
        return Rollout(batch.prompt_B, action_B, log_prob_B, reward_B - reward_B.mean(), reward_B)

    def features(self, model: nn.Module, batch: Rollout) -> Taken:
        return Taken(model(batch.prompt_B).gather(1, batch.action_B[:, None])[:, 0])

    def losses(self, features: Taken, batch: Rollout) -> dict[str, Tensor]:
        ratio_B = (features.log_prob_B - batch.log_prob_B).exp()
        bounded_B = ratio_B.clamp(1 - CLIP, 1 + CLIP)
        return {"clipped": -torch.minimum(ratio_B * batch.advantage_B, bounded_B * batch.advantage_B).mean()}

    def metrics(self, features: Taken, batch: Rollout) -> dict[str, Tensor]:
        return {"reward": batch.reward_B.mean()}


@dataclass(frozen=True, kw_only=True)
class SharedBandit(Bandit):
    """A bandit whose actions are drawn by row, learned in shuffled minibatches with advantages of the whole minibatch."""

    slug = "shared_bandit"
    minibatch: int = 4
    shuffled: bool = True

    def rollout(self, model: nn.Module, companions: Mapping[str, nn.Module], batch: Rollout) -> Rollout:
        log_BA = model(batch.prompt_B)
        action_B = drawn_actions(log_BA, RowNoise(len(batch)).uniform())
        log_prob_B = log_BA.gather(1, action_B[:, None])[:, 0]
        reward_B = (action_B == batch.prompt_B % ACTIONS).double()
        return Rollout(batch.prompt_B, action_B, log_prob_B, reward_B, reward_B, tuple(str(p) for p in batch.prompt_B.tolist()))

    def losses(self, features: Taken, batch: Rollout) -> dict[str, Tensor]:
        assert batch.texts == tuple(str(p) for p in batch.prompt_B.tolist())
        advantage_B = standardised(batch.advantage_B)
        return {"clipped": clipped_surrogate(features.log_prob_B, batch.log_prob_B, advantage_B, clip=CLIP).loss}


@dataclass(frozen=True)
class Means:
    value_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class Average(Tabular):
    """Solves for the mean of the prompts' numbers, in every entry of the table."""

    slug = "average"
    engine = "solve"
    epochs: float = 1.0
    steps: int = 0

    def batch(self, draws: Draws) -> Rollout:
        return Rollout(prompts(draws))

    def features(self, model: nn.Module, batch: Rollout) -> Means:
        return Means(model.logit_PA[batch.prompt_B, 0])  # type: ignore[index]

    def losses(self, features: Means, batch: Rollout) -> dict[str, Tensor]:
        return {"distance": (features.value_B - batch.prompt_B).square().mean()}

    def statistics(self, model: nn.Module, batch: Rollout) -> dict[str, Tensor]:
        return {"sum": batch.prompt_B.double().sum(), "rows": torch.tensor(float(len(batch)), dtype=torch.float64)}

    def solve(self, model: nn.Module, totals: Mapping[str, Tensor]) -> dict[str, float]:
        model.logit_PA.fill_(totals["sum"] / totals["rows"])  # type: ignore[operator]
        return {"rows": float(totals["rows"])}


def run(plan: dict[str, Any]) -> None:
    """Train by {"out", "kind", "options"}."""
    from diptych.train.fit import fit
    from diptych.train.options import TrainOptions

    kind: Any = {"prefer": Prefer, "bandit": Bandit, "average": Average, "shared": SharedBandit}[plan["kind"]]
    fit(kind(), toy_pool(), Path(plan["out"]), TrainOptions(progress=False, precision="fp32", seed=3, **plan["options"]))
