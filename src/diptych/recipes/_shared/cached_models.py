"""Small models that recipes need before they can begin, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diptych.core.disk.cache import cache_folder
from diptych.core.disk.files import atomic_folder
from diptych.core.disk.lock import Lock
from diptych.train.precision import deterministic


def cached_model(kind: str, key: Any, make: Callable[[], Callable[[Path], object]], *, seed: int) -> Path:
    """The folder of what `make` makes for this key (plain values: data, settings, versions), made first where it is not there.

    make  trains, and gives what writes the result into a new folder
    Torch's random numbers are of `seed` and come back afterwards, and floats are of single precision whatever the run's are, so that
    every run finds the same. Two processes that ask at once wait for each other. A kill costs the work and leaves nothing behind.
    """
    digest = hashlib.sha256(json.dumps([key, torch.__version__], sort_keys=True).encode()).hexdigest()
    folder = cache_folder() / kind / digest[:16]
    if not folder.exists():
        with _locked(folder.with_suffix(".lock")):
            if not folder.exists():
                with _own_random_state(seed), deterministic():
                    write = make()
                with atomic_folder(folder) as work:
                    write(work)
    return folder


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
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
