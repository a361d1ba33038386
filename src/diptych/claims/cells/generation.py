"""Arms that generate pictures of a relation: inverted into a word (ReVersion), or learned by an adapter (RelationBooth)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.contracts import ReferenceImage
from diptych.data.media.decode import decode
from diptych.recipes.generation.relationbooth import RelationBooth
from diptych.recipes.generation.reversion import ReVersion
from diptych.tasks.generation.figure_generation import FigureGeneration
from diptych.tasks.generation.relation_generation import RelationGeneration
from diptych.worlds.figures.world import figures
from diptych.worlds.related.world import RelatedWorld, exemplars

INVERTED, EXEMPLARS, PROMPTS = "inside", 8, 24
SEEN, NEW = ("red", "yellow"), ("green", "blue", "purple", "white")
"""Colours of the exemplars, and of the prompts that are drawn."""
JOINED, FIGURES, FIGURES_TESTED = "shaking hands with", 16, 24
STEPS, SMOKE_ROWS = 10, 2
"""Steps of denoising."""


@dataclass(frozen=True)
class InvertedRelation:
    """Learns a relation as a new word of the frozen model from 8 exemplars in two colours, and draws it with things of other colours.
    "clean" is the share of pictures with the relation and without a colour of the exemplars.

    words  asks the frozen model with these words in place of a learned one, and trains nothing
    """

    recipe: ReVersion
    words: str = ""

    def __call__(self, cell: Cell) -> Scores:
        rows = exemplars(EXEMPLARS, seed=cell.seed, relation=INVERTED, colours=SEEN)
        recipe = replace(self.recipe, small_steps=2) if cell.smoke else self.recipe
        model = untrained(recipe, rows, cell) if self.words else opened(recipe, rows, cell)
        return clean_relation(model, cell, self.words)


@dataclass(frozen=True)
class PastedExemplar:
    """Answers each prompt with the exemplar of its place, in turn."""

    def __call__(self, cell: Cell) -> Scores:
        world = RelatedWorld(cell.seed, (INVERTED,), colours=SEEN, placeholder=True)
        pictures = [decode(image) for at in range(EXEMPLARS) if (image := world.sample("train", at).image) is not None]
        return clean_relation(Pasted(pictures), cell, INVERTED)


@dataclass(frozen=True)
class Pasted:
    """An `ImageGenerator` of given pictures."""

    pictures: Sequence[npt.NDArray[np.uint8]]
    name: str = "pasted"

    def generate_images(
        self, prompts: Sequence[str], *, references: Sequence[Sequence[ReferenceImage]] | None = None, **options: Any
    ) -> npt.NDArray[np.uint8]:
        """One picture after the other; without any, the references of each prompt side by side in their boxes."""
        if self.pictures:
            return np.stack([self.pictures[at % len(self.pictures)] for at in range(len(prompts))])
        return np.stack([beside(row) for row in references or ()])


def beside(references: Sequence[ReferenceImage]) -> npt.NDArray[np.uint8]:
    """The brighter pixel of every reference picture, each moved so that its middle is that of its box."""
    moved = []
    for one in references:
        pixels_HWC = decode(one.image)
        shift = round(((one.box[0] + one.box[2]) / 2 - 0.5) * pixels_HWC.shape[1])
        moved.append(np.roll(pixels_HWC, shift, 1))
    brightest: npt.NDArray[np.uint8] = np.stack(moved).max(0)
    return brightest


def clean_relation(model: Any, cell: Cell, words: str = "") -> Scores:
    """Scores of the prompts of a cell's seed; `words` stand for the relation where the model has no word of its own."""
    count = SMOKE_ROWS if cell.smoke else PROMPTS
    data = exemplars(count, seed=cell.seed, split="test", relation=INVERTED, colours=NEW)
    task = RelationGeneration(relation=words, leaks=SEEN, limit=count, steps=2 if cell.smoke else STEPS, draws=10)
    records = task.predict(model, data)
    relation, entities, leaked = (
        np.asarray(records.column(name).to_pylist(), float) for name in ("relation", "entities", "leaked")
    )
    return {
        "clean": float((relation * (1 - leaked)).mean()),
        "relation_accuracy": float(relation.mean()),
        "leak_rate": float(leaked.mean()),
        "entity_accuracy": float(entities.mean()),
    }


@dataclass(frozen=True)
class JoinedFigures:
    """Learns from 16 pictures how two figures shake hands, by an adapter on a model that knows other relations, and draws new pairs.

    learns  False asks the model as it is before its first step
    pasted  takes the reference pictures themselves, in their boxes, and trains nothing
    """

    recipe: RelationBooth
    learns: bool = True
    pasted: bool = False

    def __call__(self, cell: Cell) -> Scores:
        count = SMOKE_ROWS if cell.smoke else FIGURES_TESTED
        data = figures(count, seed=cell.seed, split="test", relations=(JOINED,))
        task = FigureGeneration(limit=count, steps=2 if cell.smoke else STEPS, draws=10)
        model: Any = Pasted(())
        if not self.pasted:
            rows = figures(FIGURES, seed=cell.seed, relations=(JOINED,))
            recipe = replace(self.recipe, small_steps=2) if cell.smoke else self.recipe
            model = (opened if self.learns else untrained)(recipe, rows, cell)
        metrics = task.score(task.predict(model, data)).metrics
        return {name: metric.value for name, metric in metrics.items()}
