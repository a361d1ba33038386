"""Successive halving against a loop by hand: warm-up, the batches of each round, what ranks the models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diptych.core.contracts import Optimiser
from diptych.core.errors import ConfigError
from diptych.train.halving import successive_halving

STEPS, SEED, RATE, LIMIT = 6, 5, 0.1, 0.9
JUDGES = (0.5, -1.0)


def targets(count: int, seed: int) -> list[float]:
    return [math.sin(seed + 0.7 * step) for step in range(count)]


class Weight(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.w_1 = nn.Parameter(torch.tensor([start], dtype=torch.float64))


class Regression:
    """The loss of a weight w on a target t is (w - t)^2, in two terms, and 7 more in training."""

    def __init__(self) -> None:
        self.progress: list[float] = []

    def optimiser(self) -> Optimiser:
        return Optimiser(kind="sgd", lr=RATE, betas=(0.0, 0.0), weight_decay=0.0, clip_norm=LIMIT)

    def features(self, model: Weight, batch: float) -> tuple[Tensor, bool]:
        return model.w_1 - batch, model.training

    def losses(self, features: tuple[Tensor, bool], batch: float) -> Mapping[str, Tensor]:
        error_1, training = features
        return {"one half": error_1.square() / 2, "other half": error_1.square().sum() / 2 + 7.0 * training}

    def after_update(self, model: Weight, features: object, batch: float, progress: float) -> None:
        assert not torch.is_grad_enabled()
        self.progress.append(progress)


class Run:
    def __init__(self) -> None:
        self.recipe, self.model, self.asked = Regression(), Weight(0.0), list[int]()

    def batches(self, count: int, *, seed: int) -> list[float]:
        return targets(count, seed)

    def ahead(self, count: int) -> list[float]:
        self.asked.append(count)
        return list(JUDGES[:count])


def trained(weight: float, rounds: int) -> float:
    for number in range(rounds):
        for step, target in enumerate(targets(STEPS, SEED + number)):
            gradient = 2 * (weight - target)
            gradient *= min(1.0, LIMIT / (abs(gradient) + 1e-6))
            weight -= RATE * min(1.0, (number * STEPS + step + 1) / (STEPS // 3)) * gradient
    return weight


def loss(weight: float) -> float:
    return sum((weight - target) ** 2 for target in JUDGES) / len(JUDGES)


def test_it_is_the_loop_by_hand() -> None:
    run: Any = Run()
    starts, rounds, alive = (3.0, -2.0, 0.2, 1.0, 5.0), [0] * 5, [0, 1, 2, 3, 4]
    models = [Weight(start) for start in starts]
    found = successive_halving(run, models, steps=STEPS, seed=SEED)
    for stay in (3, 2, 1):
        rounds = [done + (place in alive) for place, done in enumerate(rounds)]
        alive = sorted(alive, key=lambda place: loss(trained(starts[place], rounds[place])))[:stay]
    wanted = [trained(*each) for each in zip(starts, rounds, strict=True)]
    assert sorted(rounds) == [1, 1, 2, 3, 3]
    assert [float(model.w_1.detach()) for model in models] == pytest.approx(wanted, rel=1e-12)
    assert found.losses == pytest.approx([loss(weight) for weight in wanted], rel=1e-12)
    assert [found.best] == alive
    assert found.steps == STEPS * sum(rounds)
    assert run.recipe.progress == [0.0] * found.steps
    assert run.asked == [2]


def test_of_equal_models_the_first_wins() -> None:
    run: Any = Run()
    assert successive_halving(run, [Weight(1.0) for _ in range(3)], steps=1, seed=0, judged_by=1).best == 0
    assert run.asked == [1]


@pytest.mark.parametrize("wrong", [{"models": []}, {"steps": 0}, {"judged_by": 0}])
def test_less_than_one_is_refused(wrong: dict[str, Any]) -> None:
    run: Any = Run()
    with pytest.raises(ConfigError, match="expected 1 or more of each"):
        successive_halving(run, **{"models": [Weight(0.0)], "steps": 1, "seed": 0, **wrong})
