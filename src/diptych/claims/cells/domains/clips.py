"""Arms on rendered clips whose classes are each other's reverse in time: how often is the right one of the two named?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.recipes.adaptation.xclip import XCLIP
from diptych.worlds.clips import CLASSES, PARTNER, clips

CLIPS, TESTED, SMOKE_ROWS = 2000, 400, 24
SIDE, FRAMES = 32, 8
"""Pixels and frames of a clip: as many as are read of it."""


@dataclass(frozen=True)
class ReversedPairs:
    """Trains on clips of the cell's seed. "within" is the accuracy among the class and its reverse, half of it by guessing; "acc" among
    all eight; "pair" how often the pair is right, whichever of the two.

    learns  False asks the model as it is before its first step
    """

    recipe: XCLIP
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = clips(SMOKE_ROWS if cell.smoke else CLIPS, seed=cell.seed, length=FRAMES, size=SIDE)
        test = clips(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test", length=FRAMES, size=SIDE)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        tested = [test[row] for row in range(len(test))]
        score_NK = model.score_clips([sample.media["clip"] for sample in tested], CLASSES)
        index = {name: k for k, name in enumerate(CLASSES)}
        label_N = np.array([index[sample.extras["label"]] for sample in tested])
        other_N = np.array([index[PARTNER[sample.extras["label"]]] for sample in tested])
        row_N, best_N = np.arange(len(label_N)), score_NK.argmax(1)
        own_N, turned_N = score_NK[row_N, label_N], score_NK[row_N, other_N]
        return {
            "within": float(np.mean((own_N > turned_N) + 0.5 * (own_N == turned_N))),
            "acc": float(np.mean(best_N == label_N)),
            "pair": float(np.mean((best_N == label_N) | (best_N == other_N))),
        }
