"""Learning-rate range test: the loss while the rate grows from step to step (Smith, 2017, 1506.01186)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diptych.core.contracts import Dataset, Recipe
from diptych.core.errors import ConfigError, RunError
from diptych.core.run_folder import RunFolder
from diptych.core.terminal.progress import with_bar
from diptych.train.engines.supervised import Supervised
from diptych.train.log import Log
from diptych.train.optimise import clip, set_learning_rate
from diptych.train.options import TrainOptions
from diptych.train.parallel import DistributedContext
from diptych.train.precision import deterministic, training_device
from diptych.train.stages import plan
from diptych.train.state import Training

SMOOTHING = 0.9
"""Share of the running mean of losses that stays at a step."""
DIVERGED = 4.0
"""The test ends where the smoothed loss is above this many times its smallest value."""


@dataclass(frozen=True, slots=True)
class RateRange:
    """Outcome of a range test.

    points    (learning rate, loss, smoothed loss) of each step
    steepest  rate at which the smoothed loss falls fastest; NaN where it never falls
    lowest    rate at which the smoothed loss is smallest; above it training gets worse
    diverged  the loss grew to several times its smallest value before the last step
    """

    points: tuple[tuple[float, float, float], ...]
    steepest: float
    lowest: float
    diverged: bool


def rate_range(
    recipe: Recipe,
    data: Dataset,
    options: TrainOptions | None = None,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
) -> RateRange:
    """Trains from the start weights with a rate that grows from `low` to `high` by a constant factor, and keeps nothing.

    Rates of parameters with a scale of their own keep it. Raises ConfigError for ends that cannot be, or a recipe without gradient steps.
    """
    if not 0 < low < high or steps < 10:
        raise ConfigError(f"the range is {low:g} to {high:g} in {steps} steps (expected 0 < low < high, and 10 steps or more)")
    options = replace(options or TrainOptions(), shard="none", steps=steps, progress=False)
    recipe = recipe.prepare(data)
    phases = plan(recipe, data, options)
    world = DistributedContext(0, 1, training_device(options.device))
    losses: list[float] = []
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    with tempfile.TemporaryDirectory() as scratch, deterministic():
        folder = RunFolder(Path(scratch))
        run = Training(recipe, data, options, world, folder, Log(folder, start=0, steps=0, progress=False, main=False), phases)
        run.enter(phases[0])
        if not isinstance(run.engine, Supervised) or run.optimiser is None:
            raise ConfigError(f"'{recipe.slug}' is trained by the engine '{recipe.engine}' (expected gradient steps on losses)")
        for rate in with_bar(rates[: phases[0].stop], steps, "range test"):
            try:
                losses.append(_step(run, rate))
            except RunError:  # a gradient that is not finite
                losses.append(math.nan)
            if _ended(smoothed(losses)):
                break
    return outcome(rates, losses)


def _step(run: Training, rate: float) -> float:
    """One update at a rate; returns the loss before it."""
    assert run.optimiser is not None
    outcome = run.backward(run.next_batch())
    spec = run.recipe.optimiser()
    clip(run.model, spec.clip_norm, spec.clip_by)
    set_learning_rate(run.optimiser, rate)
    run.optimiser.step()
    with torch.no_grad():
        run.recipe.after_update(run.model, outcome.features, outcome.batch, (run.step + 1) / run.steps)
    run.step += 1
    return float(sum(loss.detach().sum() for loss in outcome.losses.values()))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential running means, divided by their weight so that the first ones are not too small."""
    means, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**count))
    return means


def _ended(means: Sequence[float]) -> bool:
    finite = [mean for mean in means if math.isfinite(mean)]
    return not math.isfinite(means[-1]) or (means[-1] > 0 and means[-1] > DIVERGED * min(finite))


def outcome(rates: Sequence[float], losses: Sequence[float]) -> RateRange:
    """Rates of the steepest fall and of the smallest smoothed loss, from the losses of a test.

    Slopes are differences of the smoothed loss over equal steps of log rate, before the smallest value is reached.
    """
    means = smoothed(losses)
    diverged = _ended(means)
    points = [(rate, loss, mean) for rate, loss, mean in zip(rates, losses, means, strict=False) if math.isfinite(mean)]
    if len(points) < 3:
        raise RunError("the loss was not finite within the first steps: begin lower")
    lowest = min(range(len(points)), key=lambda row: points[row][2])
    slopes = {row: (points[row + 1][2] - points[row - 1][2]) / 2 for row in range(1, lowest)}
    fastest = min(slopes, key=lambda row: slopes[row], default=None)
    steepest = points[fastest][0] if fastest is not None and slopes[fastest] < 0 else math.nan
    return RateRange(tuple(points), steepest, points[lowest][0], diverged)
