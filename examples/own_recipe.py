"""A recipe of one's own in one file: CLIP with label smoothing, compared with CLIP over two seeds.

    python examples/own_recipe.py runs/own

docs/add-a-system.md explains the parts of a recipe. Two seeds and thirty steps show how a comparison is made, not who wins.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import diptych as dp
from diptych.data.load.batch import PairBatch
from diptych.models.towers.outputs import PairFeatures
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes.contrastive.clip import CLIP

DATA = "world:scenes?n=100"


@dataclass(frozen=True, kw_only=True)
class SmoothedCLIP(CLIP):
    """CLIP with label smoothing in both directions. Baseline: `clip`.

    smoothing  share of the target that is spread over the batch
    """

    slug = "smoothed_clip"
    smoothing: float = 0.1

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        loss, _ = info_nce(features.image_ND, features.text_ND, scale=features.scale, smoothing=self.smoothing)
        return {"contrastive": loss}


def main(folder: Path, steps: int = 30, seeds: int = 2) -> dict[str, list[float]]:
    """Train both under the same seeds into `folder`; returns text-to-image recall at 5 of each seed."""
    found: dict[str, list[float]] = {}
    for made in (CLIP.tiny(), SmoothedCLIP.tiny()):
        for seed in range(seeds):
            run = dp.train(made, DATA, folder / f"{made.slug}-{seed}", steps=steps, batch_size=32, seed=seed)
            result = dp.evaluate(dp.load(run.path), "retrieval", DATA, split="test")
            found.setdefault(made.slug, []).append(result.metrics["t2i_r@5"].value)
        print(f"{made.slug}: text to image R@5 by seed {', '.join(f'{value:.3f}' for value in found[made.slug])}")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own"))
