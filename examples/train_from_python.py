"""Trains two recipes on a rendered world from Python and reads what they measured.

    python examples/train_from_python.py runs/example

The world is `scenes`: coloured shapes whose captions say how they stand to each other. Forty steps teach little; the point is
how a run is started, read and evaluated.
"""

from __future__ import annotations

import sys
from pathlib import Path

import diptych as dp

DATA = "world:scenes?n=200"


def main(folder: Path, steps: int = 40) -> dict[str, float]:
    """Train `clip` and `siglip` into `folder`; returns text-to-image recall at 5 of each on the split "test"."""
    found = {}
    for name in ("clip", "siglip"):
        run = dp.train(name, DATA, folder / name, steps=steps, batch_size=64, seed=1, say=print)
        losses = [line["loss"] for line in run.metrics() if line["kind"] == "train"]
        print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        result = dp.evaluate(dp.load(run.path), "retrieval", DATA, split="test")
        recall = result.metrics["t2i_r@5"]
        print(f"{name}: text to image R@5 {recall}, chance {recall.chance:.3f}")
        found[name] = recall.value
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example"))
