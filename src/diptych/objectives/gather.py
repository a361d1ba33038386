"""Rows of all processes in one tensor, with gradients that stay exact under data-parallel averaging.

The convention of every objective here: each process differentiates its own share of the loss, the data-parallel wrapper averages
the processes' gradients, and the result is the gradient of the mean loss over the global batch. So `gather_rows` sums
gradients on the way back (each process needs its rows for the others' losses), and `mean_over_processes` passes them on
unchanged (the wrapper does the averaging). Neither divides nor multiplies by the number of processes.

What implementations get wrong: gathering without gradient while each process computes only its own rows gives wrong directions,
not only a wrong factor; dividing feature gradients but not the temperature's skews clipping and weight decay.

Every function is the identity, or a plain copy, outside `torch.distributed` and in a group of one.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diptych.core.errors import ShapeError

Group = Any
"""A `torch.distributed.ProcessGroup`, or None for all processes."""


def world(process_group: Group = None) -> tuple[int, int]:
    """(rank, number of processes) in the group; (0, 1) when `torch.distributed` is not running."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(process_group), dist.get_world_size(process_group)


def gather_rows(x_ND: Tensor, process_group: Group = None) -> Tensor:
    """[N, ...] of each process -> [W * N, ...] in rank order, at least float32 when floating; backward sums over the processes.

    Half-precision rows travel as they are and are widened on arrival, so that the sum of gradients is not rounded.
    All processes must hold equally many rows (`check_equal_rows`) and must all run backward.
    """
    if world(process_group)[1] == 1:
        return x_ND
    if not x_ND.is_floating_point():
        return all_gather(x_ND, process_group).flatten(0, 1)
    gathered: Tensor = _GatherRows.apply(x_ND, process_group)  # type: ignore[no-untyped-call]
    return gathered


def mean_over_processes(value: Tensor, process_group: Group = None) -> Tensor:
    """The mean of a tensor over the processes, for a loss that each holds a share of; backward is the identity."""
    if world(process_group)[1] == 1:
        return value
    mean: Tensor = _MeanOverProcesses.apply(value, process_group)  # type: ignore[no-untyped-call]
    return mean


def share_of_gradient(x: Tensor, share: float) -> Tensor:
    """The same tensor, to which only `share` of the gradient goes back; itself where that is all of it.

    Published code that gathers the features of W processes without gradient, and computes all rows everywhere, gives the features 1 / W of
    the gradient of the global mean once the wrapper has averaged, and the temperature all of it."""
    return x if share == 1 else x.detach() + share * (x - x.detach())


def all_gather(x: Tensor, process_group: Group = None) -> Tensor:
    """[...] of each process -> [W, ...]. No gradient."""
    count = world(process_group)[1]
    x = x.detach().contiguous()
    if count == 1:
        return x[None]
    gathered = x.new_empty((count, *x.shape))
    dist.all_gather(list(gathered.unbind(0)), x, group=process_group)
    return gathered


def all_gather_json(value: Any, device: torch.device | str = "cpu", process_group: Group = None) -> list[Any]:
    """A value of each process that JSON can hold, such as texts, in rank order. Tuples arrive as lists. Raises TypeError for others.

    device  of the bytes on their way: one that the group's backend takes
    """
    own = json.dumps(value).encode()
    sizes = all_gather(torch.tensor([len(own)], device=device), process_group).flatten().tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
    padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8).to(device)
    return [json.loads(bytes(part[:size].tolist())) for part, size in zip(all_gather(padded, process_group), sizes, strict=True)]


def check_equal_rows(process_group: Group, **tensors: Tensor) -> None:
    """Raises ShapeError on every process alike when a tensor's shape differs between them."""
    if world(process_group)[1] == 1:
        return
    device = next(iter(tensors.values())).device
    own = torch.tensor([size for tensor in tensors.values() for size in tensor.shape], device=device)
    sizes = all_gather(own, process_group).tolist()
    if any(row != sizes[0] for row in sizes):
        raise ShapeError(
            f"every process must bring equal shapes for {', '.join(tensors)}; got {sizes}, one row a process (drop the last, short batch)"
        )


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, process_group: Group) -> Tensor:
        ctx.process_group, ctx.dtype = process_group, x_ND.dtype
        return all_gather(x_ND, process_group).flatten(0, 1).to(torch.promote_types(x_ND.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None]:
        rank, count = world(ctx.process_group)
        if dist.get_backend(ctx.process_group) == "nccl":
            own_ND = grad_ND.new_empty((len(grad_ND) // count, *grad_ND.shape[1:]))
            dist.reduce_scatter_tensor(own_ND, grad_ND.contiguous(), group=ctx.process_group)
        else:  # gloo and MPI lack a dependable reduce-scatter
            total_ND = grad_ND.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(total_ND, group=ctx.process_group)
            own_ND = total_ND.chunk(count)[rank]
        return own_ND.to(ctx.dtype), None


class _MeanOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, process_group: Group) -> Tensor:
        mean = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(mean, group=process_group)
        return mean / world(process_group)[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
