"""Cost of a run before it starts: time, memory and disk, measured on a few real steps. Behind `--dry-run`."""

from __future__ import annotations

import dataclasses
import resource
import shutil
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diptych.core.contracts import Dataset, Recipe
from diptych.core.errors import ConfigError
from diptych.core.run_folder import RunFolder
from diptych.train.devices.peak_memory import PeakMemory
from diptych.train.gradient_cache import tensors
from diptych.train.log import Log
from diptych.train.options import TrainOptions
from diptych.train.parallel import DistributedContext
from diptych.train.precision import deterministic, training_device, wants_deterministic
from diptych.train.stages import Phase, plan
from diptych.train.state import Training

MEASURED = 2  # steps that are timed, after one that is not


def estimate(recipe: Recipe, data: Dataset, options: TrainOptions | None = None, out: Path | str = ".") -> dict[str, Any]:
    """Runs a few real steps of each stage in this process, writes nothing that stays, and multiplies. A stage that makes its own samples
    wants a trained model: it and what follows it are listed, but not measured. Parameters, flops and images are those of the first stage,
    memory and disk those of the stage that takes most.

    stages             of a run of several: name, steps, median seconds of a step (None where it was not measured), and its own sizes
    seconds            of the stages that were measured; what evaluation and saving cost is not in it
    seconds_per_step   of these, loading included: the median of the steps after the first
    tensor_memory_bytes  the most that tensors of a step take at once: weights, gradients, the optimiser's state, activations
    model_flops_per_step  see `devices.flops`
    peak_memory_bytes  of this process (device memory under CUDA) so far, loader processes not counted
    disk_bytes         of the checkpoints that are kept and of one being written
    disk_free_bytes    at `out`
    """
    options = dataclasses.replace(options or TrainOptions(), shard="none")
    recipe = recipe.prepare(data)
    phases = plan(recipe, data, options)
    if phases[0].stage.make is not None:
        raise ConfigError(f"stage '{phases[0].stage.name}' makes its own samples first: its cost cannot be measured beforehand")
    world = DistributedContext(0, 1, training_device(options.device))
    with tempfile.TemporaryDirectory() as scratch, deterministic(wants_deterministic(options.deterministic, world.device)):
        log = Log(RunFolder(Path(scratch)), start=0, steps=0, progress=False, main=False)
        run = Training(recipe, data, options, world, RunFolder(Path(scratch)), log, phases)
        measured = [_measured(run, phases[0])]
        for phase in phases[1:]:
            if phase.stage.make is not None or not run.engine.descends:
                break
            run.step = phase.start
            measured.append(_measured(run, phase))
    steps = [phase.stop - phase.start for phase in phases]
    seconds = sum(facts["seconds_per_step"] * count for facts, count in zip(measured, steps, strict=False))
    step = seconds / sum(steps[: len(measured)])
    stages = [
        {"stage": phase.stage.name, "steps": count, **(facts or {"seconds_per_step": None})}
        for phase, count, facts in zip_longest(phases, steps, measured)
    ]
    most = {key: max(facts.get(key, 0) for facts in measured) for key in ("checkpoint_bytes", "tensor_memory_bytes")}
    stored = max(facts.pop("stored_bytes") for facts in stages[: len(measured)])
    return {
        "steps": run.steps,
        **({"stages": stages} if len(stages) > 1 else {}),
        "epochs": run.steps * phases[0].stage.recipe.batch_size / len(data),
        "seconds_per_step": step,
        "images_per_second": phases[0].stage.recipe.batch_size / measured[0]["seconds_per_step"],
        "seconds": seconds,
        **{key: measured[0][key] for key in ("parameters", "trained_parameters")},
        "checkpoint_bytes": most["checkpoint_bytes"],
        "disk_bytes": most["checkpoint_bytes"] * (options.keep + 1) + stored,
        "model_flops_per_step": measured[0]["model_flops_per_step"],
        "disk_free_bytes": shutil.disk_usage(_existing(Path(out))).free,
        **({"tensor_memory_bytes": most["tensor_memory_bytes"]} if most["tensor_memory_bytes"] else {}),
        "peak_memory_bytes": _peak_memory(world.device),
        "precision": run.precision,
        "device": str(world.device),
    }


def _measured(run: Training, phase: Phase) -> dict[str, Any]:
    """Median seconds of a stage's steps after its first one, and its sizes; memory only if a step is left to measure it in."""
    run.enter(phase)
    seconds = [_timed_step(run) for _ in range(min(1 + MEASURED, phase.stop - phase.start))]
    taken = {"tensor_memory_bytes": _tensor_memory(run)} if run.step < phase.stop else {}
    return {"seconds_per_step": median(seconds[1:] or seconds), **_sizes(run), **taken}


def _sizes(run: Training) -> dict[str, Any]:
    """Sizes of the stage that the run is in."""
    parameters = list(run.model.parameters())
    stored = sum(t.nbytes for name, t in run.model.state_dict().items() if run.recipe.stored(name))
    memories = run.optimiser.state.values() if run.optimiser else ()
    remembered = sum(v.nbytes for memory in memories for v in memory.values() if isinstance(v, torch.Tensor))
    checkpoint = stored + remembered + sum(tensor.nbytes for tensor in tensors(run.engine.state()))
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "checkpoint_bytes": checkpoint,
        "stored_bytes": stored,
        "model_flops_per_step": run.flops or 0,
    }


def _timed_step(run: Training) -> float:
    began = time.perf_counter()
    run.take_step(run.next_batch())
    if run.world.device.type == "cuda":
        torch.cuda.synchronize(run.world.device)
    return time.perf_counter() - began


def _tensor_memory(run: Training) -> int:
    """The most bytes of tensors that are alive at once in a further step."""
    memories = run.optimiser.state.values() if run.optimiser else ()
    held = [*run.model.parameters(), *run.model.buffers(), *(p.grad for p in run.model.parameters() if p.grad is not None)]
    held += [value for memory in memories for value in memory.values() if isinstance(value, torch.Tensor)]
    with PeakMemory(held) as memory:
        run.take_step(run.next_batch())
    return int(memory.peak)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
