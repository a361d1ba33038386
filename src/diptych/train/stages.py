"""The phases of a run on a common step axis, and the training data of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from diptych.core.contracts import Dataset, Recipe, Run, Stage
from diptych.core.errors import ConfigError
from diptych.data.dataset import Pool
from diptych.data.quarantine import read_quarantine
from diptych.data.shards.build import build, open_built
from diptych.train.engines import engine_kind
from diptych.train.options import TrainOptions
from diptych.train.parallel import DistributedContext, barrier


@dataclass(frozen=True, slots=True)
class Phase:
    """A stage with its steps, `start` up to `stop`, counted over the whole run.

    head_only  the phase of `Tuning.head_first`, which trains the heads alone before the first stage
    """

    index: int
    stage: Stage
    start: int
    stop: int
    head_only: bool = False


def total_steps(recipe: Recipe, data: Dataset, options: TrainOptions) -> int:
    """Optimiser steps of the run: those of the options, else of the recipe, else its epochs over the data."""
    steps = options.steps or recipe.steps or math.ceil(recipe.epochs * len(data) / recipe.batch_size)
    if engine_kind(recipe).once:  # every stage sees the data once
        passes = max(1, len(recipe.stages()))
        requested = options.steps or recipe.steps or passes * steps
        steps = min(requested, passes * math.ceil(len(data) / recipe.batch_size))
    if steps < 1:
        raise ConfigError(f"a run of {steps} steps trains nothing: {len(data)} samples, {recipe.epochs} epochs")
    return steps


def plan(recipe: Recipe, data: Dataset, options: TrainOptions) -> list[Phase]:
    """Cuts the run's steps by the shares of its stages; a recipe without stages is one phase. Every stage gets a step at least.

    `recipe` is prepared, so that its stages' recipes can be derived from it; their own `stages` are not asked for.
    """
    stages = list(recipe.stages()) or [Stage(name=recipe.slug or "main", recipe=recipe)]
    heads = options.tune.over(recipe.tuning()).head_first
    total, shares = total_steps(recipe, data, options) - heads, sum(stage.share for stage in stages)
    if heads and total < 1:
        raise ConfigError(
            f"--head-first {heads} leaves no step for the other stages (expected fewer than the run's {total + heads} steps)"
        )
    if any(stage.share <= 0 for stage in stages) or total < len(stages):
        raise ConfigError(f"{total} steps cannot be shared by stages {[(s.name, s.share) for s in stages]}")
    phases: list[Phase] = []
    start, passed = 0, 0.0
    for index, stage in enumerate(stages):
        passed += stage.share
        later = len(stages) - index - 1
        stop = min(max(start + 1, round(total * passed / shares)), total - later)
        phases.append(Phase(index, stage, start, stop))
        start = stop
    return _after_heads(phases, heads) if heads else phases


def _after_heads(phases: list[Phase], heads: int) -> list[Phase]:
    """The phases after one of `heads` steps on the first one's samples, whose weights they go on with."""
    first = phases[0].stage
    if first.make is not None:
        raise ConfigError(f"stage '{first.name}' makes its own samples first: heads cannot be trained before it")
    alone = Phase(0, Stage(name="heads", recipe=first.recipe, keep=first.keep), 0, heads, head_only=True)
    phases = [replace(phases[0], stage=replace(first, carry=None)), *phases[1:]]
    return [alone, *(replace(p, index=p.index + 1, start=p.start + heads, stop=p.stop + heads) for p in phases)]


def stage_data(phase: Phase, data: Dataset, run: Run, folder: Path, world: DistributedContext) -> Dataset:
    """The rows that a phase trains on: those of the run, those it keeps, or those that it makes.

    Made samples are built once, as a data set under `folder`; a resumed run reads what the stopped one made.
    """
    stage = phase.stage
    if stage.make is not None:
        path = folder / f"{phase.index:02d}-{stage.name}"
        if world.main and not (path / "diptych.json").is_file():
            build(Pool.from_samples(stage.make(run), name=f"{data.name}/{stage.name}"), path, overwrite=True)
            run.leave_out({one.uid: f"{one.file}: {one.reason}".removeprefix(": ") for one in read_quarantine(path)})
        barrier(world)
        data = open_built(path)
    if stage.keep is not None:
        data = data.select([row for row in range(len(data)) if stage.keep(data[row])])
    if len(data) == 0:
        raise ConfigError(f"stage '{stage.name}' has no samples to train on")
    return data
