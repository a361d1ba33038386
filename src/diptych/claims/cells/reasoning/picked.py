"""Arms on sets of ten rendered pictures: which one does a text of several statements, some of them negated, describe?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.sample import Sample
from diptych.data.read.image_sets import FIELD
from diptych.models.io.open_address import open_address
from diptych.recipes.grounding.ndcr import NDCR
from diptych.tasks.reasoning.image_choice import By, ImageChoice
from diptych.worlds.problems.image_sets import image_sets
from diptych.worlds.rendered import RenderedDataset

SETS, TESTED, MOST, SMOKE_ROWS, SMOKE_STEPS = 1500, 300, 2, 12, 2
Reads = Literal["text", "nothing"]


@dataclass(frozen=True)
class PickedPictures:
    """Trains on sets of the cell's seed. "accuracy" is the share of texts whose picture comes first; "negated" that of texts with a negated
    statement, "plain" of the others.

    reads   the "text", or "nothing": the same words about every set
    learns  False asks the model as it is before its first step
    """

    recipe: NDCR
    reads: Reads = "text"
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows, test = _sets(cell)
        change, propositions = _CHANGES[self.reads]
        model = (opened if self.learns else untrained)(_sized(self.recipe, cell), rows.changed(change, propositions), cell)
        return _scores(ImageChoice().predict(model, test.changed(change, propositions)), test)


@dataclass(frozen=True)
class Compared:
    """The recipe's frozen encoder by itself: how it scores the whole text with each picture, or the text's statements."""

    recipe: NDCR
    by: By = "whole"

    def __call__(self, cell: Cell) -> Scores:
        rows, test = _sets(cell)
        folder = _sized(self.recipe, cell).prepare(rows.select([0])).encoder_folder
        return _scores(ImageChoice(by=self.by, scale=20.0).predict(open_address(folder), test), test)


def _sets(cell: Cell) -> tuple[RenderedDataset, RenderedDataset]:
    train, test = (SMOKE_ROWS, SMOKE_ROWS) if cell.smoke else (SETS, TESTED)
    return image_sets(train, seed=cell.seed, most=MOST), image_sets(test, seed=cell.seed, split="test", most=MOST)


def _sized(recipe: NDCR, cell: Cell) -> NDCR:
    return replace(recipe, small_image_steps=SMOKE_STEPS) if cell.smoke else recipe


def _scores(records: pa.Table, test: RenderedDataset) -> dict[str, float]:
    right_N = ImageChoice().item_values(records, "accuracy")
    assert right_N is not None
    negated_N = np.array([" no " in test[row].extras[FIELD]["text"] for row in range(len(test))])
    return {
        "accuracy": float(right_N.mean()),
        "negated": float(right_N[negated_N].mean()) if negated_N.any() else 0.0,
        "plain": float(right_N[~negated_N].mean()) if not negated_N.all() else 0.0,
    }


def read_text(sample: Sample) -> Sample:
    """The sample as it is."""
    return sample


def read_nothing(sample: Sample) -> Sample:
    """The same words for each set."""
    return _changed(sample, lambda text: "there is a picture")


def _changed(sample: Sample, change: Callable[[str], str]) -> Sample:
    asked: dict[str, Any] = sample.extras[FIELD]
    entry = {**asked, "text": change(asked["text"]), "propositions": [change(one) for one in asked["propositions"]]}
    return replace(sample, extras={**sample.extras, FIELD: entry})


_CHANGES: dict[Reads, tuple[Callable[[Sample], Sample], str]] = {
    "text": (read_text, "text"),
    "nothing": (read_nothing, "nothing"),
}
