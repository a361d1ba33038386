"""Small models that recipes need before they can begin, made once and kept in the cache, with what each took."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diptych.core.disk.cache import cache_folder
from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.disk.lock import Lock
from diptych.models.io.frozen_engine import in_double
from diptych.train.gradient_cache import map_tensors
from diptych.train.precision import deterministic

PASSES = 100
"""Over the rows of a small model, at most: with more it learns few rows by heart, and others get worse."""


@dataclass(slots=True)
class SharedCosts:
    """Processor seconds of every shared model that was asked for, by name, also of one that was there already (None: not recorded), and the
    processor and wall-clock seconds of those that were made now."""

    seconds: dict[str, float | None] = field(default_factory=dict)
    cpu_now: float = 0.0
    wall_now: float = 0.0


_costs: ContextVar[SharedCosts | None] = ContextVar("shared_costs", default=None)


@contextmanager
def shared_costs() -> Iterator[SharedCosts]:
    """Counts the shared models that are asked for inside."""
    costs, outer = SharedCosts(), _costs.get()
    token = _costs.set(costs)
    try:
        yield costs
    finally:
        _costs.reset(token)
        if outer is not None:
            outer.seconds.update(costs.seconds)
            outer.cpu_now, outer.wall_now = outer.cpu_now + costs.cpu_now, outer.wall_now + costs.wall_now


def cached_model(kind: str, key: Any, make: Callable[[], Callable[[Path], object]], *, seed: int, doubles: bool = False) -> Path:
    """The folder of what `make` makes for this key (plain values: data, settings, versions), made first where it is not there.

    make     trains, and gives what writes the result into a new folder
    doubles  whether it can train in double precision: it then does in a trace of a claim, whose digits are the same on every processor
    Torch's random numbers are of `seed` and come back afterwards, and floats are of single precision whatever the run's are, so that
    every run finds the same. Two processes that ask at once wait for each other. A kill costs the work and leaves nothing behind.
    """
    double = in_double()
    versions = [torch.__version__, *(["double"] if double else [])]
    digest = hashlib.sha256(json.dumps([key, *versions], sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / kind / digest[:16]
    cost_file = folder.with_suffix(".cost.json")
    if not folder.exists():
        with _locked(folder.with_suffix(".lock")):
            if not folder.exists():
                with shared_costs() as inner:
                    cpu, wall = sum(os.times()[:4]), time.perf_counter()
                    with _own_random_state(seed, torch.float64 if double and doubles else torch.float32), deterministic():
                        write = make()
                    with atomic_folder(folder) as work:
                        write(work)
                    own = sum(os.times()[:4]) - cpu - inner.cpu_now
                    inner.cpu_now, inner.wall_now = inner.cpu_now + own, time.perf_counter() - wall
                write_json(cost_file, {**inner.seconds, f"{kind}/{digest[:16]}": own})
    if (costs := _costs.get()) is not None:
        recorded = json.loads(cost_file.read_text(encoding="utf-8")) if cost_file.is_file() else {f"{kind}/{digest[:16]}": None}
        costs.seconds.update(recorded)
    return folder


def steps_within_passes(steps: int, rows: int, batch_size: int) -> int:
    """`steps`, but no more than `PASSES` passes over the rows take."""
    return min(steps, math.ceil(PASSES * rows / batch_size))


def in_default_precision(batch: Any) -> Any:
    """A batch with floats of torch's default type, which is double in a trace of a claim."""
    dtype = torch.get_default_dtype()
    return map_tensors(batch, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


@contextmanager
def _own_random_state(seed: int, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := Lock.take(path)) is None:
        time.sleep(1)
    try:
        yield
    finally:
        lock.close()
