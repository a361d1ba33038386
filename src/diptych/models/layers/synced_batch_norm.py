"""Batch norm over the batches of all processes (as torch's `SyncBatchNorm`, on any device).  Letters: B batch, H width."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.BatchNorm1d):
    """[B, H] by mean and variance of the rows of all processes, which hold equally many; in one process `nn.BatchNorm1d`.

    Gradients are those of one process with the whole batch, under the convention that a wrapper averages them over the processes.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        count = len(input) * dist.get_world_size()
        mean_H: Tensor = all_reduce(input.sum(0)) / count
        apart_BH = input - mean_H
        variance_H: Tensor = all_reduce(apart_BH.square().sum(0)) / count
        with torch.no_grad():
            self._remember(mean_H, variance_H * count / max(1, count - 1))
        normal_BH = apart_BH * torch.rsqrt(variance_H + self.eps)
        out_BH: Tensor = normal_BH * self.weight + self.bias
        return out_BH

    def _remember(self, mean_H: Tensor, variance_H: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean_H.to(self.running_mean), share)
        self.running_var.lerp_(variance_H.to(self.running_var), share)
