"""A training step of the small RLIPv2 on linked shapes, before and after optimisation by profiling, in one run.

    python benchmarks/detector_step.py [--steps 12] [--rounds 3]

Two things took most of a step: `grid_sample`, forward and above all backward, and rendering each scene anew for every draw. Four ways in
turn, on the same scenes and weights: sampling by `grid_sample` or by a sparse product (`models/detection/point_sampling.py`),
and scenes that are
rendered each time or remembered (`worlds/rendered.py`). Processor seconds of one thread; medians over rounds; three steps of each way
are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from machine_results import Figure, Peer, keep

from diptych.data.load.stream import batches
from diptych.models.detection import point_sampling
from diptych.recipes.relations.rlipv2 import RLIPv2
from diptych.worlds.links.world import links

SCENES = 64  # few, so that those that are remembered have all been drawn
WARM = 4  # steps that are not counted: every scene once
WAYS = (("grid_sample", "rendered"), ("sparse", "rendered"), ("grid_sample", "remembered"), ("sparse", "remembered"))


def step_seconds(sampling: str, scenes: str, steps: int) -> dict[str, float]:
    """Processor seconds of a step and of its parts."""
    rows = links(SCENES)
    rows = rows.remembering() if scenes == "remembered" else rows
    recipe = RLIPv2.tiny().prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, fused=True)
    few, point_sampling.FEW = point_sampling.FEW, 1 << 60 if sampling == "grid_sample" else 10_000
    spent = {"batch": 0.0, "forward": 0.0, "loss": 0.0, "backward": 0.0, "update": 0.0}
    try:
        stream = iter(batches(rows, recipe, seed=0, stop=WARM + steps))
        for step in range(WARM + steps):
            marks = [time.process_time()]
            batch = next(stream).batch
            marks.append(time.process_time())
            features = recipe.features(model, batch)
            marks.append(time.process_time())
            losses = recipe.losses(features, batch)
            marks.append(time.process_time())
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            marks.append(time.process_time())
            optimiser.step()
            marks.append(time.process_time())
            if step >= WARM:
                for part, start, end in zip(spent, marks, marks[1:], strict=False):
                    spent[part] += (end - start) / steps
    finally:
        point_sampling.FEW = few
    return spent


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    before, after = rows[0], rows[-1]
    return [
        Figure(
            "RLIPv2 tiny, one step", "ms", after["seconds"] * 1e3, (Peer("as it was before profiling", before["seconds"] * 1e3),)
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            found[way].append(step_seconds(*way, args.steps))
    batch = RLIPv2.tiny().batch_size
    rows: list[dict[str, Any]] = []
    for (sampling, scenes), each in found.items():
        parts = {part: statistics.median(one[part] for one in each) for part in each[0]}
        seconds = statistics.median(sum(one.values()) for one in each)
        rows.append(
            {"sampling": sampling, "scenes": scenes, "seconds": seconds, "images_a_second": batch / seconds, "parts": parts}
        )
        print(
            f"{sampling:12} {scenes:11} {seconds * 1e3:7.1f} ms  {batch / seconds:6.1f} images/s  "
            + ", ".join(f"{part} {value * 1e3:.1f}" for part, value in parts.items())
        )
    print(f"before to after: {rows[0]['seconds'] / rows[-1]['seconds']:.2f} times as fast")
    found = {"torch_threads": 1, "rows": rows, "time_ratio": rows[-1]["seconds"] / rows[0]["seconds"]}
    keep("detector_step", found, figures(rows))


if __name__ == "__main__":
    main()
