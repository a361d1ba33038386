"""Work on several processes joined by gloo, without paying for their imports each time.

A server imports what all of them need, once a session and before anything has run there; each process is a fork of it. (A fork of the
tests' own process would have torch's threads and nobody to run them.)
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = [
    "torch.nn.parallel",
    "torch.distributed.fsdp",
    "pytest",
    "scipy.stats",
    "diptych.train.fit",
    "diptych.api",
    "diptych.recipes.contrastive.lexlip",
    "diptych.worlds.scenes.world",
    "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip",
]


def on_processes(work: Callable[[int, int], Any], folder: Path, *, world: int = 2) -> list[Any]:
    """What `work(rank, world)`, a function of a test file, returns on each of them: tensors, numbers and strings in lists and dicts."""
    begun = begin_on_processes(work, folder, world=world)
    while not begun.join():
        pass
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def begin_on_processes(work: Callable[[int, int], Any], folder: Path, *, world: int = 2) -> mp.ProcessContext:
    """The processes at work, which the caller waits for or kills."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    settings = world, str(folder), dict(os.environ), work
    return mp.start_processes(_joined, args=settings, nprocs=world, join=False, start_method="forkserver")


def _joined(rank: int, world: int, folder: str, environment: dict[str, str], work: Callable[[int, int], Any]) -> None:
    os.environ.clear()  # the server has that of its start
    os.environ.update(environment)
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = work(rank, world)
    dist.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")
