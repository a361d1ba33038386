"""Findings that are hidden in a sentence about a rendered chest, guessed from the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.image import ImageSource
from diptych.worlds.chests.drawing import PATHOLOGIES
from diptych.worlds.chests.world import ChestWorld
from diptych.worlds.rendered import RenderedDataset, rows_of

TESTED = 200


@dataclass(frozen=True)
class MaskedFindings:
    """Trains on chests of one lesion with their impression; then, on others, the share of findings that are guessed right among the five in
    "___ in the left mid zone." ("guessed"), and the same with the picture of another chest, which sentences alone give ("another_picture").

    count   pictures to train on
    learns  False asks the model as it is before the first step
    """

    recipe: Any
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        world = ChestWorld(cell.seed, size=48, most=1, pictured="impression")
        train = RenderedDataset("chests", world, rows_of(world, "train", self.count))
        model = (opened if self.learns else untrained)(self.recipe, train, cell)
        test = RenderedDataset("chests", world, rows_of(world, "test", 2 * TESTED))
        samples = [sample for sample in (test[row] for row in range(len(test))) if sample.extras["present"]][:TESTED]
        images = [sample.image for sample in samples if sample.image]
        pairs = [sample.extras["pairs"][0] for sample in samples]
        texts = [f"___ in the {zone}." for _, zone, _ in pairs]

        def guessed(shown: Sequence[ImageSource]) -> float:
            log_NC = model.guess_words(shown, texts, candidates=[name.capitalize() for name in PATHOLOGIES])
            right = [PATHOLOGIES[int(at)] == finding for at, (finding, _, _) in zip(log_NC.argmax(1), pairs, strict=True)]
            return float(np.mean(right))

        return {"guessed": guessed(images), "another_picture": guessed([*images[1:], images[0]])}
