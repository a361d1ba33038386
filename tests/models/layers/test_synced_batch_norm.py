"""Two processes normalise as one does with the rows of both; one process is torch's batch norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from joined_processes import on_processes
from torch import nn

from diptych.models.layers.synced_batch_norm import SyncedBatchNorm


def answers(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Output, gradients and statistics after two steps, gradients averaged over processes as data-parallel training does it."""
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 6, 4, generator=chance, dtype=torch.float64) * 3 + 1
    target = torch.randn(6, 4, generator=chance, dtype=torch.float64)
    norm = (SyncedBatchNorm if world > 1 else nn.BatchNorm1d)(4).double()
    rows = slice(rank * 6 // world, (rank + 1) * 6 // world)
    for whole in inputs:
        norm.zero_grad()
        x = whole[rows].clone().requires_grad_()
        out = norm(x)
        # every process differentiates its share of the mean over all rows, times the number of processes
        ((out - target[rows]).square().sum() / 6 * world).backward()
    grads = [norm.weight.grad, norm.bias.grad]
    for grad in grads if world > 1 else ():
        dist.all_reduce(grad)
    return {
        "out": out.detach(), "x": x.grad / world, "weight": grads[0] / world, "bias": grads[1] / world,
        "mean": norm.running_mean, "var": norm.running_var, "tracked": norm.num_batches_tracked,
    }  # fmt: skip


def test_two_processes_are_one(tmp_path: Path, parity: Any) -> None:
    whole, parts = answers(0, 1), on_processes(answers, tmp_path)
    pairs = [(torch.cat([part[name] for part in parts]), whole[name]) for name in ("out", "x")]
    pairs += [(part[name], whole[name]) for part in parts for name in ("weight", "bias", "mean", "var")]
    parity(
        "cocu", "batch norm of projectors over two processes", "torch's BatchNorm1d with the whole batch", pairs, tolerance=1e-12
    )
    assert all(int(part["tracked"]) == 2 for part in parts)


def test_one_process_is_torchs() -> None:
    x = torch.randn(5, 3)
    ours, theirs = SyncedBatchNorm(3), nn.BatchNorm1d(3)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)
    assert set(ours.state_dict()) == set(theirs.state_dict())
