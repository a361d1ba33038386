"""Distributed training: ranks, wrapping of the model, gathering of results.

Processes are started by `torchrun`; a run that is not sees one process and every function here is free. NCCL carries CUDA
tensors, gloo those on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from diptych.core.errors import ConfigError
from diptych.models.io.device import device_default
from diptych.train.devices.blocks import stacked_blocks
from diptych.train.options import Precision, Shard, TrainOptions
from diptych.train.precision import training_device

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the other processes wait while the first one evaluates


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """Rank, world size and device of this process. `main` is true on the one that writes."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0


@contextmanager
def join_world(device: str, shard: Shard) -> Iterator[DistributedContext]:
    """Joins the processes that `torchrun` started, leaves them at the end; a group that exists already is used and kept."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        here = training_device(device)
        with device_default(str(here)):  # of what the recipe opens
            yield DistributedContext(0, 1, here)
        return
    if shard == "none":
        raise ConfigError(f"torchrun started {size} processes, but shard is none (expected ddp or fsdp)")
    here = training_device(device)
    owner = not dist.is_initialized()
    if owner:
        dist.init_process_group("cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        with device_default(str(here)):
            yield DistributedContext(dist.get_rank(), size, here)
    finally:
        if owner:
            dist.destroy_process_group()


def wrap(model: nn.Module, world: DistributedContext, options: TrainOptions, precision: Precision = "fp32") -> nn.Module:
    """The module to call in training. "fsdp" cuts the parameters of `model` itself into shards (DTensors), each block of a
    stack of equal blocks on its own, and returns it; "ddp" returns a wrapper around it. Raises ConfigError for a `shard_size`
    that does not divide the number of processes."""
    if world.size == 1 or options.shard == "none":
        return model
    if options.shard == "ddp":
        ids = [world.device.index] if world.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)
    size = options.shard_size or world.size
    if world.size % size:
        raise ConfigError(f"shard_size is {size}, of {world.size} processes (expected a number that divides them)")
    copies = world.size // size
    sizes, names = ((copies, size), ("copies", "shards")) if copies > 1 else ((size,), ("shards",))
    mesh = init_device_mesh(world.device.type, sizes, mesh_dim_names=names)
    half = options.shard_bf16 and precision == "bf16"
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for blocks in list(stacked_blocks(model)):
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    return cast(nn.Module, fully_shard(model, mesh=mesh, mp_policy=policy))


def unsynced(module: nn.Module) -> Callable[[], AbstractContextManager[object]]:
    """Opens regions whose backward passes add to the gradients of this process and average nothing."""
    if isinstance(module, DistributedDataParallel):
        return module.no_sync
    return (lambda: _fsdp_unsynced(module)) if isinstance(module, FSDPModule) else nullcontext


@contextmanager
def _fsdp_unsynced(module: FSDPModule) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor on every process; itself when it is not sharded. A collective: all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor cut and placed as `other` is."""
    tensor = tensor.to(other.device)
    if isinstance(other, DTensor) and not isinstance(tensor, DTensor):
        return cast(Tensor, distribute_tensor(tensor, other.device_mesh, other.placements))
    return tensor


def gather_full(value: Any) -> Any:
    """A tree of plain values and tensors with every sharded tensor put together."""
    if isinstance(value, Tensor):
        return full_tensor(value)
    if isinstance(value, Mapping):
        return {key: gather_full(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [gather_full(item) for item in value]
    return value


def all_reduce_mean(values: Mapping[str, Tensor], world: DistributedContext) -> dict[str, float]:
    """The mean over processes of named scalars."""
    return dict(zip(values, mean_on_device(values, world).tolist(), strict=True)) if values else {}


def mean_on_device(values: Mapping[str, Tensor], world: DistributedContext) -> Tensor:
    """The same as a tensor [N] on the device, in their order: float64, and float32 on MPS, which has no other."""
    exact = torch.float32 if world.device.type == "mps" else torch.float64
    scalars = [value.detach().reshape(()).to(world.device, exact, non_blocking=True) for value in values.values()]
    numbers = torch.stack(scalars) if scalars else torch.zeros(0, dtype=exact, device=world.device)
    if world.size > 1:
        dist.all_reduce(numbers)
        numbers /= world.size
    return numbers


def all_reduce_sum(values: Mapping[str, Tensor], world: DistributedContext) -> dict[str, Tensor]:
    """The sums over processes of tensors that all of them have under the same names and in the same shapes."""
    if world.size == 1:
        return dict(values)
    totals = {name: value.clone() for name, value in values.items()}
    for name in sorted(totals):
        dist.all_reduce(totals[name])
    return totals


def all_reduce_max(number: int, world: DistributedContext) -> int:
    """Maximum over processes of a number."""
    if world.size == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def gather_text(text: str, world: DistributedContext) -> list[str]:
    """The texts of all processes, by rank."""
    if world.size == 1:
        return [text]
    mine = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor([len(mine)]))
    longest = max(int(size) for size in sizes)
    if longest == 0:
        return [""] * world.size
    rows = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world.size)]
    dist.all_gather(rows, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [bytes(row[: int(size)].tolist()).decode() for row, size in zip(rows, sizes, strict=True)]


def barrier(world: DistributedContext) -> None:
    """Waits for the others. A reduction of one number, because gloo serves it with NCCL beside it too."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))
