"""Arms on kitchens: what does a sentence want done in a picture, where it leaves the tool open?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.planning.goals import Goal, goal_of, named_goal_of
from diptych.recipes.relations.sgl import SGL
from diptych.worlds.kitchens.world import kitchens
from diptych.worlds.rendered import RenderedDataset

KITCHENS, TESTED, SMOKE_ROWS, SIZE, OPEN = 2000, 500, 24, 48, 0.3
"""Training pictures, tested ones, and the share of sentences that leave the tool open."""


@dataclass(frozen=True)
class LearnedGoals:
    """Trains on kitchens of the cell's seed. "open" is the share of goals that are right where the sentence leaves the tool open and the
    picture lacks nothing, "exact" of all goals, "missing" of those with an unknown part.

    learns  False asks the model as it is before its first step
    """

    recipe: SGL
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows, tested = _kitchens(cell)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        images, texts = [sample.image for sample in tested], [_words(sample) for sample in tested]
        return _scores(tested, [Goal(*goal) for goal in model.predict_goals(images, texts)])


@dataclass(frozen=True)
class NearestKitchen:
    """The goal of the training kitchen with the same words, most of them, and of equal ones that with the nearest pixels."""

    def __call__(self, cell: Cell) -> Scores:
        rows, tested = _kitchens(cell)
        trained = [rows[row] for row in range(len(rows))]
        words = [Counter(_words(sample).split()) for sample in trained]
        pixel_ND = np.stack([_pixels(sample) for sample in trained])
        goals = []
        for sample in tested:
            asked = Counter(_words(sample).split())
            common_N = np.array([2 * (asked & one).total() / (asked.total() + one.total()) for one in words])
            near_N = np.flatnonzero(common_N == common_N.max())
            distance_N = ((pixel_ND[near_N] - _pixels(sample)) ** 2).sum(1)
            goals.append(goal_of(trained[near_N[distance_N.argmin()]]))
        return _scores(tested, goals)


def _kitchens(cell: Cell) -> tuple[RenderedDataset, list[Sample]]:
    train, test = (SMOKE_ROWS, SMOKE_ROWS) if cell.smoke else (KITCHENS, TESTED)
    rows = kitchens(train, seed=cell.seed, size=SIZE, unnamed=OPEN)
    held_out = kitchens(test, seed=cell.seed, size=SIZE, split="test", unnamed=OPEN)
    return rows, [held_out[row] for row in range(len(held_out))]


def _words(sample: Sample) -> str:
    return sample.texts[0].string


def _pixels(sample: Sample) -> npt.NDArray[np.float32]:
    assert isinstance(sample.image, ArrayImage)
    return np.asarray(sample.image.pixels_HWC.ravel() / 255, np.float32)


def _scores(tested: list[Sample], goals: list[Goal]) -> dict[str, float]:
    truth = [goal_of(sample) for sample in tested]
    right_N = np.array([goal == true for goal, true in zip(goals, truth, strict=True)])
    complete_N = np.array([true.complete for true in truth])
    open_N = np.array([not named_goal_of(sample).object for sample in tested]) & complete_N
    return {
        "open": float(right_N[open_N].mean()) if open_N.any() else 0.0,
        "exact": float(right_N.mean()),
        "missing": float(right_N[~complete_N].mean()) if not complete_N.all() else 0.0,
    }
