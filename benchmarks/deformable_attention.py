"""Deformable attention on CPU, forward and backward: time compared with transformers' module in one run.

    python benchmarks/deformable_attention.py [--repeats 7]

Both modules have the same weights and inputs and run alternately; time is the median of process seconds, with the threads PyTorch
was given (set OMP_NUM_THREADS). "attention" is the whole module, its four projections among it; "sampling" is what lies between
them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from machine_results import Figure, Peer, keep
from torch import Tensor
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrMultiscaleDeformableAttention,
    MultiScaleDeformableAttention,
)

from diptych.models.detection.deformable_attention import DeformableAttention
from diptych.models.detection.point_sampling import sample_points

POINTS = 4
NAMES = {"offsets": "sampling_offsets", "weights": "attention_weights", "value": "value_proj", "out": "output_proj"}


@dataclass(frozen=True)
class Case:
    """queries 0: every place asks (an encoder)."""

    batch: int
    width: int
    heads: int
    shapes: tuple[tuple[int, int], ...]
    queries: int = 0


CASES = (
    Case(16, 64, 4, ((8, 8), (4, 4)), queries=16),
    Case(16, 64, 4, ((8, 8), (4, 4))),
    Case(16, 64, 4, ((16, 16), (8, 8))),
    Case(8, 64, 4, ((32, 32), (16, 16))),
    Case(2, 256, 8, ((32, 32), (16, 16), (8, 8), (4, 4)), queries=200),
    Case(2, 256, 8, ((32, 32), (16, 16), (8, 8), (4, 4))),
    Case(1, 256, 8, ((64, 84), (32, 42), (16, 21), (8, 11)), queries=200),
    Case(1, 256, 8, ((64, 84), (32, 42), (16, 21), (8, 11))),
)


def attention(case: Case) -> tuple[Callable[[], Tensor], Callable[[], Tensor], list[Tensor]]:
    torch.manual_seed(0)
    levels, places = len(case.shapes), sum(h * w for h, w in case.shapes)
    config = DeformableDetrConfig(d_model=case.width, num_feature_levels=levels)
    peer = DeformableDetrMultiscaleDeformableAttention(config, case.heads, POINTS)
    ours = DeformableAttention(case.width, case.heads, levels=levels, points=POINTS)
    for name, their_name in NAMES.items():
        peer.get_submodule(their_name).load_state_dict(ours.get_submodule(name).state_dict())
    query = torch.randn(case.batch, case.queries or places, case.width, requires_grad=True)
    memory = torch.randn(case.batch, places, case.width, requires_grad=True)
    reference = torch.rand(case.batch, case.queries or places, levels, 2)
    arguments: dict[str, Any] = {
        "encoder_hidden_states": memory,
        "reference_points": reference,
        "spatial_shapes": torch.tensor(case.shapes),
        "spatial_shapes_list": list(case.shapes),
    }
    leaves = [query, memory, *ours.parameters(), *peer.parameters()]
    return lambda: ours(query, reference, memory, case.shapes), lambda: peer(query, **arguments)[0], leaves


def sampling(case: Case) -> tuple[Callable[[], Tensor], Callable[[], Tensor], list[Tensor]]:
    torch.manual_seed(0)
    places, levels = sum(h * w for h, w in case.shapes), len(case.shapes)
    lead = (case.batch, case.queries or places, case.heads, levels, POINTS)
    value = torch.randn(case.batch, places, case.heads, case.width // case.heads, requires_grad=True)
    # As in training: near the query's own place, a little of it outside.
    location = (torch.rand(*lead[:2], 1, 1, 1, 2) + torch.randn(*lead, 2) * 0.05).requires_grad_()
    weight = torch.rand(lead, requires_grad=True)
    peer = MultiScaleDeformableAttention()
    shapes = list(case.shapes)
    return (
        lambda: sample_points(value, location, weight, case.shapes),
        lambda: peer(value, torch.tensor(shapes), shapes, None, location, weight, 64),
        [value, location, weight],
    )


def seconds(call: Callable[[], Tensor], leaves: Sequence[Tensor]) -> float:
    start = time.process_time()
    out = call()
    torch.autograd.grad(out.sum(), leaves, allow_unused=True)
    return time.process_time() - start


def measure(part: str, case: Case, repeats: int) -> dict[str, Any]:
    ours, peer, leaves = (attention if part == "attention" else sampling)(case)
    difference = (ours() - peer()).abs().max().item()
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for repeat in range(repeats + 1):
        for side, call in (("ours", ours), ("peer", peer)):
            took = seconds(call, leaves)
            if repeat:
                times[side].append(took)
    row: dict[str, Any] = {
        "part": part,
        "B": case.batch,
        "D": case.width,
        "levels": len(case.shapes),
        "places": sum(h * w for h, w in case.shapes),
        "queries": case.queries or sum(h * w for h, w in case.shapes),
        "difference": difference,
        "seconds": statistics.median(times["ours"]),
        "peer_seconds": statistics.median(times["peer"]),
    }
    row["time_ratio"] = row["seconds"] / row["peer_seconds"]
    return row


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    return [
        Figure(
            f"{row['part']}, batch {row['B']}, {row['queries']:,} queries on {row['places']:,} places, width {row['D']}",
            "ms",
            row["seconds"] * 1e3,
            (Peer("transformers", row["peer_seconds"] * 1e3),),
        )
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rows = [measure(part, case, repeats) for part in ("attention", "sampling") for case in CASES]
    print(
        f"{'part':10} {'B':>3} {'D':>4} {'places':>7} {'queries':>7} {'ms':>8} {'transformers':>12} {'times faster':>12} {'difference':>10}"
    )
    for row in rows:
        print(
            f"{row['part']:10} {row['B']:>3} {row['D']:>4} {row['places']:>7} {row['queries']:>7} {row['seconds'] * 1e3:>8.2f} "
            f"{row['peer_seconds'] * 1e3:>12.2f} {1 / row['time_ratio']:>12.2f} {row['difference']:>10.1e}"
        )
    keep("deformable_attention", {"torch_threads": torch.get_num_threads(), "rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
