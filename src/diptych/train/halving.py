"""Successive halving: train several models a little, keep the better half, train those on (Jamieson & Talwalkar, 2016, 1502.07943).

The models are trials: nothing of them stays but their scores. All train on the same batches, outside the run's own order, and are
scored on the next batches of the run before anything has been trained on these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diptych.core.contracts import Run
from diptych.core.errors import ConfigError
from diptych.train.optimise import build_optimiser, clip, freeze, set_learning_rate


@dataclass(frozen=True, slots=True)
class HalvingResult:
    """best     place of the winner
    losses   of each model, the last one that it had
    steps    optimiser steps of all trials together: what the search cost
    """

    best: int
    losses: tuple[float, ...]
    steps: int


def halving_rounds(candidates: int, steps: int) -> list[tuple[int, int]]:
    """(models, steps each trains further) of each round: half as many models, as many steps again.

    >>> halving_rounds(4, 15), halving_rounds(3, 10), halving_rounds(1, 9)
    ([(4, 15), (2, 15)], [(3, 10), (2, 10)], [])
    """
    rounds = []
    while candidates > 1:
        rounds.append((candidates, steps))
        candidates = math.ceil(candidates / 2)
    return rounds


def successive_halving(run: Run, models: Sequence[nn.Module], *, steps: int, seed: int, judged_by: int = 2) -> HalvingResult:
    """The model with the lowest loss on the next `judged_by` batches, after each round half of the rest. Changes the models."""
    if not models or steps < 1 or judged_by < 1:
        raise ConfigError(
            f"{len(models)} models, {steps} steps a round, {judged_by} batches to judge by (expected 1 or more of each)"
        )
    device = next(run.model.parameters()).device
    alive = list(range(len(models)))
    losses = [math.nan] * len(models)
    optimisers = [_optimiser(run, model.to(device)) for model in models]
    judges = list(run.ahead(judged_by))
    spent = 0
    for number, (count, length) in enumerate(halving_rounds(len(models), steps)):
        assert count == len(alive)
        for candidate in alive:
            for step, batch in enumerate(run.batches(length, seed=seed + number)):
                _step(
                    run,
                    models[candidate],
                    optimisers[candidate],
                    batch,
                    min(1.0, (number * length + step + 1) / max(1, steps // 3)),
                )
            spent += length
            losses[candidate] = _mean_loss(run, models[candidate], judges)
        alive = sorted(alive, key=lambda candidate: (losses[candidate], candidate))[: math.ceil(count / 2)]
    return HalvingResult(alive[0], tuple(losses), spent)


def _optimiser(run: Run, model: nn.Module) -> torch.optim.Optimizer:
    model.train()
    freeze(model, run.recipe.optimiser())
    return build_optimiser(model, run.recipe.optimiser())


def _step(run: Run, model: nn.Module, optimiser: torch.optim.Optimizer, batch: object, warm: float) -> None:
    spec = run.recipe.optimiser()
    optimiser.zero_grad(set_to_none=True)
    features = run.recipe.features(model, batch)
    torch.stack([loss.reshape(()) for loss in run.recipe.losses(features, batch).values()]).sum().backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            _average(parameter.grad)
    set_learning_rate(optimiser, spec.lr * warm)
    clip(model, spec.clip_norm)
    optimiser.step()
    with torch.no_grad():
        run.recipe.after_update(model, features, batch, 0.0)


@torch.no_grad()
def _mean_loss(run: Run, model: nn.Module, judges: Sequence[object]) -> float:
    model.eval()
    losses = [sum(run.recipe.losses(run.recipe.features(model, batch), batch).values()) for batch in judges]
    model.train()
    mean = torch.stack([torch.as_tensor(loss).reshape(()).double() for loss in losses]).mean()
    _average(mean)
    return float(mean)


def _average(tensor: Tensor) -> None:
    """Average a tensor over processes, in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
