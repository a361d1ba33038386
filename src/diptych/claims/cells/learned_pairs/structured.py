"""Arms on small rendered pairs whose texts say how two things stand to each other, probed with texts that differ in one thing.

"A red circle left of a blue cross": which of the two is named first is drawn, so that no word and no order of words is more usual in true
texts than in wrong ones. A probe's wrong text exchanges the colours, the shapes or both things ("swapped"), or has another colour, shape or
relation in the place of one ("replaced"); none of them is true of its picture. "order" is ARO's: the text against its own words in four
other orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import clean_rows, drawn, retrieved
from diptych.claims.cells.learned_pairs.probed import Pixels
from diptych.claims.training import opened, untrained
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks.composition.aro import ARO
from diptych.tasks.composition.probe import Probe
from diptych.worlds.small_pairs import COLOURS, SHAPES, SmallPairs

INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SWAPPED, REPLACED = (
    ("swapped colours", "swapped shapes", "swapped things"),
    ("another colour", "another shape", "another relation"),
)
Thing = tuple[str, str]
"""Colour, shape."""


@dataclass(frozen=True)
class Structured:
    """Accuracy on a compositionality probe after training on `count` pictures.

    "swapped" and "replaced" are mean accuracies over the kinds of the probe; each kind, "order" and recalls are scores too.

    learns    False asks the model as it is before the first step
    """

    recipe: PairRecipe
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows, test = described(drawn(SmallPairs(self.count, regions=True), cell)), described(clean_rows(cell, regions=True))
        model = opened(self.recipe, rows, cell) if self.learns else untrained(self.recipe, rows, cell)
        scores = retrieved(model, test, origins=("caption",))
        recalls = {name: scores[name] for name in ("i2t_r@1", "t2i_r@1")}
        return {**probed(model, test, "credit"), "order": ordered(model, test, "credit"), **recalls}


@dataclass(frozen=True)
class BlindText:
    """The same probes by a scorer that sees no picture: a bigram model of the other pictures' texts."""

    def __call__(self, cell: Cell) -> Scores:
        model, test = Pixels(2), described(clean_rows(cell, regions=True))
        return {**probed(model, test, "blind"), "order": ordered(model, test, "blind")}


def probed(model: Any, test: Pool, scorer: str) -> dict[str, float]:
    """Accuracy of that scorer of the probe ("credit" is the model) by kind, and means over kinds; a kind without a case is left out."""
    task = Probe(minimum=1, draws=1)
    records = task.predict(model, test).to_pylist()
    scores = {}
    for kind in (*SWAPPED, *REPLACED):
        values = [row[scorer] for row in records if row["kind"] == kind]
        if values:
            scores[kind.replace(" ", "_")] = sum(values) / len(values)
    for name, kinds in (("swapped", SWAPPED), ("replaced", REPLACED)):
        there = [scores[kind.replace(" ", "_")] for kind in kinds if kind.replace(" ", "_") in scores]
        scores[name] = sum(there) / len(there)
    return scores


def ordered(model: Any, test: Pool, scorer: str) -> float:
    """That scorer's accuracy where the words of a text stand in other orders."""
    texts = (replace(test[row], regions=(), relations=(), extras={}) for row in range(len(test)))
    records = ARO().predict(model, Pool.from_samples(texts, name=f"{test.name}, texts")).to_pylist()
    return float(np.mean([row[scorer] for row in records]))


def described(pool: Pool) -> Pool:
    """The pool with texts that say how its two things stand, and with wrong ones in the extra "negatives"."""
    return Pool.from_samples((_described(pool[row]) for row in range(len(pool))), name=f"{pool.name}, told")


def _described(sample: Sample) -> Sample:
    one, two = sample.regions
    rng = keyed_rng("told", sample.uid)
    if rng.random() < 0.5:
        one, two = two, one
    first, second, relation = _thing(one), _thing(two), _relation(one, two)
    words = said(first, relation, second)
    negatives = [
        {"kind": kind, "true": words, "false": wrong}
        for kind, wrong in wrongs(first, relation, second, rng).items()
        if wrong not in (words, said(second, INVERSE[relation], first))
    ]
    group = " / ".join(sorted((words, said(second, INVERSE[relation], first))))
    return replace(sample, texts=(Text(words, "en"),), group=group, extras={**sample.extras, "negatives": negatives})


def wrongs(first: Thing, relation: str, second: Thing, rng: Any) -> Mapping[str, str]:
    """A wrong text of each kind; one that says the same as the true one is among them where things are alike."""
    colour = str(rng.choice([name for name in COLOURS if name not in (first[0], second[0])]))
    shape = str(rng.choice([name for name in SHAPES if name not in (first[1], second[1])]))
    return {
        "swapped colours": said((second[0], first[1]), relation, (first[0], second[1])),
        "swapped shapes": said((first[0], second[1]), relation, (second[0], first[1])),
        "swapped things": said(second, relation, first),
        "another colour": said((colour, first[1]), relation, second),
        "another shape": said((first[0], shape), relation, second),
        "another relation": said(first, INVERSE[relation], second),
    }


def said(first: Thing, relation: str, second: Thing) -> str:
    """The sentence.

    >>> said(("red", "circle"), "left of", ("blue", "cross"))
    'a red circle left of a blue cross'
    """
    return f"a {' '.join(first)} {relation} a {' '.join(second)}"


def _thing(region: Region) -> Thing:
    return region.attributes[0], region.label


def _relation(one: Region, two: Region) -> str:
    """Spatial relation of the first region to the second, on the axis on which they are further apart."""
    across, down = ((one.box[at] + one.box[at + 2] - two.box[at] - two.box[at + 2]) / 2 for at in (0, 1))
    if abs(across) >= abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"
