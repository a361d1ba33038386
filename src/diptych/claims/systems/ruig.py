"""RUIG on rendered pages: reinforcement of whole boxes against more cross-entropy, from the same kind of start and for as many updates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from diptych.claims.cell import Cell, Scores
from diptych.claims.claim import Arm, Claim
from diptych.claims.training import opened, untrained
from diptych.claims.verdict import Margins
from diptych.core.grounding import PhraseQuery
from diptych.data.text.captions.phrases import sentences_of
from diptych.objectives.policy.box_rewards import bin_ceiling, clicks, overlap
from diptych.recipes.grounding.ruig import RUIG
from diptych.worlds.screens.world import screens

PAGES, TESTED, SMOKE_ROWS, SIZE, ELEMENTS, NOISE = 4000, 400, 16, 48, 3, 0.15
RATES = (1e-3, 2e-3, 4e-3)


@dataclass(frozen=True)
class Located:
    """Trains on pages of the cell's seed whose boxes are a little off, and locates the elements of others whose boxes are exact.

    iou      mean of the box for each instruction; accuracy, share of at least .5; click, share whose middle lies in the element
    ceiling  mean IoU of the true boxes with their own bins
    """

    recipe: RUIG
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        train, test = (
            screens(SMOKE_ROWS if cell.smoke else n, seed=cell.seed, split=split, size=SIZE, elements=ELEMENTS, noise=NOISE)  # type: ignore[arg-type]
            for split, n in (("train", PAGES), ("test", TESTED))
        )
        model = (opened if self.learns else untrained)(self.recipe, train.remembering(), cell)
        samples = [test[row] for row in range(len(test))]
        queries = [PhraseQuery.of([sentences_of(sample)[0].text], behind="") for sample in samples]
        boxes = model.ground([sample.image for sample in samples if sample.image is not None], queries)
        box_N4 = torch.from_numpy(np.stack([row[0].box_N4[0] for row in boxes]) / SIZE)
        true_N4 = torch.tensor([sample.regions[sentences_of(sample)[0].phrases[0].regions[0]].box for sample in samples]) / SIZE
        iou_N = overlap(box_N4, true_N4)
        return {
            "iou": float(iou_N.mean()),
            "accuracy": float((iou_N >= 0.5).double().mean()),
            "click": float(clicks(box_N4, true_N4).mean()),
            "ceiling": float(bin_ceiling(true_N4, self.recipe.bins).mean()),
        }


def claims() -> tuple[Claim, ...]:
    reinforced = RUIG.tiny()
    return (
        Claim(
            slug="ruig",
            kind="paper's claim",
            sentence="After a start by cross-entropy, boxes lie better with reinforcement than with as many updates without it",
            source="2310.04716: sequence training by visual metrics; sizes of the effect are not published for a start that has converged",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("likelihood", Located(replace(reinforced, reinforced=0.0)), RATES),
            method=Arm("reinforced", Located(reinforced), RATES),
            controls=(Arm("untrained", Located(reinforced, learns=False)),),
            metric="iou",
            margins=Margins(matters=0.02, equivalence=0.02),
            equal_budget=("samples",),
            data=f"{PAGES:,} pages of {ELEMENTS} elements whose boxes are off by {NOISE:.0%} of a side, {TESTED} with exact ones",
            reported=("accuracy", "click", "ceiling"),
        ),
    )
