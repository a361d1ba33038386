"""Batch norm over the batches of all processes (as torch's `SyncBatchNorm`, on any device).  Letters: B batch, H width."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncedBatchNorm(nn.BatchNorm1d):
    """Batch norm of [B, H] with mean and variance over all processes, which have equally many rows;
    in one process `nn.BatchNorm1d`.

    Sums are computed in at least float32. Gradients equal those of one process with the whole batch if a wrapper averages
    them over the processes.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        count = len(input) * dist.get_world_size()
        wide_BH = input.to(torch.promote_types(input.dtype, torch.float32))
        mean_H: Tensor = _AllReduceSum.apply(wide_BH.sum(0)) / count  # type: ignore[no-untyped-call]
        apart_BH = wide_BH - mean_H
        variance_H: Tensor = _AllReduceSum.apply(apart_BH.square().sum(0)) / count  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self._remember(mean_H, variance_H * count / max(1, count - 1))
        normal_BH = apart_BH * torch.rsqrt(variance_H + self.eps)
        out_BH: Tensor = normal_BH * self.weight + self.bias
        return out_BH.to(input.dtype)

    def _remember(self, mean_H: Tensor, variance_H: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_H.to(self.running_mean), share)
        self.running_var.lerp_(variance_H.to(self.running_var), share)


class _AllReduceSum(torch.autograd.Function):
    """All-reduce sum over all processes, in forward and backward."""

    @staticmethod
    def forward(ctx: Any, own_H: Tensor) -> Tensor:
        return _summed(own_H)

    @staticmethod
    def backward(ctx: Any, grad_H: Tensor) -> Tensor:
        return _summed(grad_H)


def _summed(own_H: Tensor) -> Tensor:
    total_H = own_H.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total_H)
    return total_H
