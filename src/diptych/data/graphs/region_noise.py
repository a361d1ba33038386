"""Noisy regions, for training a model to correct given regions (DN-DETR, 2203.01305; RLIPv2's R-Tagger).

With a box (cx, cy, w, h), strength b and u uniform in [-b, b], drawn for each number:

    cx + u w / 2,   cy + u h / 2,   w + u w,   h + u h        each kept in [0, 1]

and a label that, with some probability, is any of the labels instead. The noise is drawn once a region, not once a pair: two pairs
with a region in common must not average it away.

What the released code gets wrong: random labels below the size of the batch instead of the number of labels.

Letters: K regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RegionNoise:
    """box    strength b: share of a side (the tagger's script 0.6, the released files 0.4)
    label  probability of another label (0.3, 0.2)
    """

    box: float = 0.6
    label: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.box < 1 or not 0 <= self.label <= 1:
            raise ConfigError(f"RegionNoise has box {self.box} and label {self.label} (expected 0 <= box < 1, 0 <= label <= 1)")

    def __call__(self, box_K4: Floats, label_K: Ints, labels: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
        """cxcywh in [0, 1] and labels of `labels` kinds, changed; the inputs are left alone."""
        wide_K4 = np.concatenate([box_K4[:, 2:] / 2, box_K4[:, 2:]], axis=1)
        moved_K4 = (box_K4 + rng.uniform(-self.box, self.box, box_K4.shape) * wide_K4).clip(0, 1).astype(np.float32)
        other_K: npt.NDArray[Any] = rng.integers(0, max(1, labels), len(label_K))
        return moved_K4, np.where(rng.random(len(label_K)) < self.label, other_K, label_K).astype(np.int64)
