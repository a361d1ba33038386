"""Steps of recipes on the processor and on the pretended CUDA device: losses, host waits, tensors that were left behind.

    python tests/helpers/pretended_steps.py [--precision fp32 bf16] [--steps 3] SLUG...

One line of JSON for each recipe and precision. A recipe has a process of its own: `RECIPES.load(slug).tiny()` on a rendered world, every
stage of the project's own training that has samples there (loader, optimiser, hooks, log), then a checkpoint and the model folder.
"""

from __future__ import annotations

import pretended  # first: it comes before torch

# isort: split
import argparse
import dataclasses
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from recipe_worlds import tiny

from diptych.core.errors import ConfigError
from diptych.core.run_folder import RunFolder
from diptych.data.load.stream import batches
from diptych.train.log import Log
from diptych.train.options import TrainOptions
from diptych.train.parallel import join_world
from diptych.train.precision import deterministic
from diptych.train.stages import plan
from diptych.train.state import Training

WAITS = ("sync", "h2d")
Each = Callable[[int], None]
FUSED = "adamw", "sgd"
"""Optimisers of which torch has a kernel that updates all parameters at once."""


def steps_of(recipe: Any, data: Any, folder: Path, device: str, precision: Any, steps: int, each: Each) -> list[float]:
    """Losses of the first steps of each stage; `each` is called before a step with its number in the stage, and with -1 at the end."""
    whole = max(steps, 10 * len(recipe.stages()))
    options = TrainOptions(device=device, precision=precision, steps=whole, log_every=1, progress=False, workers=0)
    run_folder = RunFolder.create(folder, slug=recipe.slug, environment={})
    phases = plan(recipe, data, options)
    with (
        deterministic(),
        join_world(device, "none") as world,
        Log(run_folder, start=0, steps=0, progress=False, main=True) as log,
    ):
        run = Training(recipe, data, options, world, run_folder, log, phases)
        for phase in phases:
            if phase.stage.make is not None:  # it makes its samples by training something else
                continue
            run.step = phase.start
            try:
                run.enter(phase)
            except ConfigError as error:
                if "no samples" not in str(error):
                    raise
                continue
            if device == "cuda" and run.optimiser is not None:
                spec = run.recipe.optimiser()
                fused = run.optimiser.defaults.get("fused", False)
                assert fused or spec.kind not in FUSED or spec.adam != "torch", f"{type(run.optimiser).__name__} is not fused"
            hooks = run.hooks.values()
            for hook in hooks:
                if phase is phases[0]:
                    hook.on_start(run)
                hook.on_stage(run, phase.stage)
            for number in range(min(steps, phase.stop - phase.start)):
                each(number)
                batch = run.next_batch()
                for hook in hooks:
                    hook.before_step(run, batch)
                losses = run.report(run.take_step(batch))
                for hook in hooks:
                    hook.after_step(run, losses)
        each(-1)
        run.save()
        run.deploy_to(run_folder.model)
    return [row["loss"] for row in run_folder.metrics() if "loss" in row]


def results(slug: str, precisions: list[str], steps: int) -> Iterator[dict[str, Any]]:
    """Result of a recipe in each precision. Leaves this process with the pretended device installed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="pretended-") as scratch:
        recipe, data = tiny(slug)  # on the processor: what is made beforehand is tried elsewhere
        on_cpu = {}
        for precision in precisions:
            on_cpu[precision] = steps_of(recipe, data, Path(scratch, f"cpu-{precision}"), "cpu", precision, steps, lambda _: None)
        pretended.install()
        (step,) = batches(data, recipe, seed=0, stop=1)
        behind = sorted(left_behind(step.batch.to(pretended.CUDA), "batch"))
        for precision in precisions:
            yield {"slug": slug, "precision": precision, "cpu": on_cpu[precision], "left_behind": behind} | on_device(
                recipe, data, Path(scratch, precision), precision, steps
            )


def on_device(recipe: Any, data: Any, folder: Path, precision: str, steps: int) -> dict[str, Any]:
    """Losses on the pretended device; waits of a step after the first: {"FILE FUNCTION: WHAT": [a step, FILE:LINE]}; faults."""
    notes = pretended.notes
    notes.counts.clear()
    counts = Counter()  # type: ignore[var-annotated]

    def each(number: int) -> None:
        notes.phase = "first" if number == 0 else "later" if number > 0 else "after"
        counts[notes.phase] += 1

    out: dict[str, Any] = {}
    try:
        out["cuda"] = steps_of(recipe, data, folder, "cuda", precision, steps, each)
    except Exception as error:
        out["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        out["traceback"] = traceback.format_exc()[-3000:]
    notes.phase = "other"
    waits: dict[str, list[Any]] = {}
    for kind in WAITS:
        for (phase, what, function, line), count in notes.counts[kind].items():
            if phase == "later":
                entry = waits.setdefault(f"{function}: {what}", [0.0, line])
                entry[0] += count / max(1, counts["later"])
    out["waits"] = dict(sorted(waits.items()))
    out["faults"] = sorted({f"{line} {what}" for _, what, _, line in notes.counts["fault"]})
    return out


def left_behind(value: Any, name: str) -> Iterator[str]:
    """Names of the tensors of a batch that did not move to the device with it."""
    if isinstance(value, torch.Tensor):
        if value.device.type != "cuda":
            yield f"{name} {tuple(value.shape)}"
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from left_behind(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from left_behind(item, f"{name}[{key!r}]")
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from left_behind(item, f"{name}[{number}]")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("slugs", nargs="+")
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    for slug in options.slugs:
        child = os.fork()
        if child == 0:
            try:
                for result in results(slug, options.precision, options.steps):
                    print(json.dumps(result), flush=True)
            except BaseException as error:
                failure = {"slug": slug, "precision": "-", "error": f"{type(error).__name__}: {str(error)[:300]}"}
                print(json.dumps(failure | {"traceback": traceback.format_exc()[-3000:]}), flush=True)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"slug": slug, "precision": "-", "error": f"the process ended with status {status}"}), flush=True)


if __name__ == "__main__":
    main()
