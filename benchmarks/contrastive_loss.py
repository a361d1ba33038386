"""Contrastive losses, forward and backward: time and memory saved for the backward pass, compared with open_clip in one run.

    python benchmarks/contrastive_loss.py [--largest 32768]

Both sides run alternately on the same features (D = 256, float32, scale 1 / 0.07); time is the median, memory what autograd
keeps between forward and backward beyond the inputs, each storage once. Beyond B = 8192 only ours runs (the growth curve).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from machine_results import Figure, Peer, keep
from torch import Tensor

from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.sigmoid_pairs import sigmoid_pairs

WIDTH, LARGEST_PEER = 256, 8192
Loss = Callable[..., Tensor]


def losses() -> dict[str, tuple[Loss, Loss]]:
    """name -> (ours, open_clip's)."""
    from open_clip.loss import ClipLoss, SigLipLoss

    clip, siglip = ClipLoss(), SigLipLoss()
    return {
        "info_nce": (lambda i, t, s, b: info_nce(i, t, scale=s)[0], lambda i, t, s, b: clip(i, t, s)),
        "sigmoid_pairs": (lambda i, t, s, b: sigmoid_pairs(i, t, scale=s, bias=b)[0], lambda i, t, s, b: siglip(i, t, s, b)),
    }


def inputs(rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    features = [F.normalize(torch.randn(rows, WIDTH, generator=generator), dim=-1).requires_grad_() for _ in range(2)]
    return [*features, torch.tensor([1 / 0.07], requires_grad=True), torch.tensor([-10.0], requires_grad=True)]


def seconds(loss: Loss, leaves: list[Tensor]) -> tuple[float, float]:
    """Wall and processor seconds: the latter hold on a machine that others use."""
    start, used = time.perf_counter(), time.process_time()
    torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
    return time.perf_counter() - start, time.process_time() - used


def saved_bytes(loss: Loss, leaves: list[Tensor]) -> int:
    """What the graph keeps, the inputs among it: they are counted on both sides alike."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(*leaves)
    return sum(kept.values())


def measure(name: str, ours: Loss, peer: Loss, rows: int) -> dict[str, Any]:
    leaves = inputs(rows)
    against = rows <= LARGEST_PEER
    repeats = 7 if rows <= 4096 else 3 if against else 1
    row: dict[str, Any] = {"loss": name, "B": rows, "D": WIDTH, "saved_mib": saved_bytes(ours, leaves) / 2**20}
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    for repeat in range(repeats + against):
        for side, loss in (("ours", ours), ("peer", peer))[: 1 + against]:
            took = seconds(loss, leaves)
            if repeat or not against:
                times[side].append(took)
    row["seconds"], row["cpu_seconds"] = map(statistics.median, zip(*times["ours"], strict=True))
    if against:
        row["peer_seconds"], row["peer_cpu_seconds"] = map(statistics.median, zip(*times["peer"], strict=True))
        row["peer_saved_mib"] = saved_bytes(peer, leaves) / 2**20
        row["time_ratio"], row["memory_ratio"] = row["seconds"] / row["peer_seconds"], row["saved_mib"] / row["peer_saved_mib"]
    return row


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    found = []
    for row in rows:
        if "peer_seconds" in row:
            case = f"{row['loss']}, {row['B']:,} pairs"
            found.append(Figure(case, "s", row["seconds"], (Peer("open_clip", row["peer_seconds"]),)))
            if "cpu_seconds" in row:
                found.append(Figure(case, "processor s", row["cpu_seconds"], (Peer("open_clip", row["peer_cpu_seconds"]),)))
            found.append(Figure(f"{case}, saved", "MiB", row["saved_mib"], (Peer("open_clip", row["peer_saved_mib"]),)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--largest", type=int, default=32768, help="largest batch of the growth curve")
    largest = parser.parse_args().largest
    sizes = [size for size in (1024, 2048, 4096, 8192, 16384, 32768) if size <= largest]
    rows = [measure(name, *pair, size) for name, pair in losses().items() for size in sizes]
    print(f"{'loss':14} {'B':>6} {'seconds':>9} {'open_clip':>9} {'ratio':>6} {'MiB':>8} {'open_clip':>9} {'1 /':>6}")
    for row in rows:
        line = f"{row['loss']:14} {row['B']:>6} {row['seconds']:>9.4f} "
        if "peer_seconds" in row:
            line += f"{row['peer_seconds']:>9.4f} {row['time_ratio']:>6.2f} {row['saved_mib']:>8.2f} "
            line += f"{row['peer_saved_mib']:>9.1f} {1 / row['memory_ratio']:>6.1f}"
        else:
            line += f"{'':>9} {'':>6} {row['saved_mib']:>8.2f}"
        print(line)
    keep("contrastive_loss", {"torch_threads": torch.get_num_threads(), "rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
