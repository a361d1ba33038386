"""Arms about descriptions: a small detector learns shapes with made-up names (`world:invented`), then is asked for one by its name and a
description that is right, and by the same name and one that is wrong in one word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.box_iou import box_iou
from diptych.core.config import with_changes
from diptych.core.contracts import Dataset, Grounder
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.randomness import keyed_rng
from diptych.core.scene_graph import Box
from diptych.data.dataset import Pool
from diptych.data.text.descriptions.description_queries import BEFORE, description_text
from diptych.data.text.descriptions.knowledge import Noun
from diptych.data.text.tokens.spans import SpanText
from diptych.recipes.grounding.desco import DesCo
from diptych.worlds.scenes.invented import described as known_of
from diptych.worlds.scenes.invented import invented, look_of, names

SCENES, TESTED, STEPS, SMOKE_ROWS = 2000, 100, 2000, 6
KIND = "a kind of thing"
OVERLAP = 0.5


@lru_cache(maxsize=3)
def drawn(split: str, count: int, seed: int) -> Pool:
    """Scenes of that seed, kept: both arms of a claim see the same ones, many times."""
    return invented(count, seed=seed, split=split).to_pool()  # type: ignore[arg-type]


def small(**changes: Any) -> DesCo:
    """The small preset with one meeting of image and text, four classes a query, each read by itself, for so many steps."""
    shape = {"encoder_layers": 2, "fusion_before": (0, 1), "queries": 8, "reads": "pieces"}
    return with_changes(DesCo.tiny(), {**shape, "classes": 4, "text_length": 72, "steps": STEPS, **changes})


@dataclass(frozen=True)
class Described:
    """Trains on scenes of the cell's seed, then compares descriptions on others of the same seed.

    shuffled  each name is described as another one is: what descriptions give that have nothing to do with what is seen
    learns    False asks the detector as it is before the first step
    """

    recipe: DesCo
    shuffled: bool = False
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows: Dataset = drawn("train", SMOKE_ROWS if cell.smoke else SCENES, cell.seed)
        if self.shuffled:
            rows = _others(rows)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        tested = SMOKE_ROWS if cell.smoke else TESTED
        parts = {part: compared(model, drawn(split, tested, cell.seed), cell.seed) for part, split in PARTS.items()}
        return {f"{part}/{name}": value for part, scores in parts.items() for name, value in scores.items()}


PARTS = {"seen": "test", "unseen": "unseen"}
"""Names that training had, and names (of colours of shapes) that it never had."""


def compared(model: Grounder, data: Dataset, seed: int) -> Mapping[str, float]:
    """Over all things: how often the right description scores higher than one that is wrong in one word, at the box that lies best on
    the thing (`pairs`; equal scores count half), and how often the best box of the right description lies on it (`found`)."""
    images, queries, boxes = [], [], []
    for row in range(len(data)):
        sample = data[row]
        assert sample.image is not None
        for number, region in enumerate(sample.regions):
            look = look_of(region.label)
            similar = known_of(look)["similar objects"]
            other = look_of(similar[int(keyed_rng("compared", seed, sample.uid, number).integers(len(similar)))])
            images += [sample.image] * 2
            queries += [asked(region.label, look), asked(region.label, other)]
            boxes.append(region.box)
    answers = [row[0] for row in model.ground(images, queries, batch_size=32)]
    pairs, hits = [], []
    for box, right, wrong in zip(boxes, answers[::2], answers[1::2], strict=True):
        one, other_ = _at(right, box), _at(wrong, box)
        pairs.append(0.5 if one == other_ else float(one > other_))
        hits.append(float(box_iou(right.box_N4, [box])[0, 0] >= OVERLAP))
    return {"pairs": float(np.mean(pairs)), "found": float(np.mean(hits))}


def asked(name: str, look: tuple[str, ...]) -> PhraseQuery:
    """A text that asks for one thing by its name and the look of a thing."""
    return SpanText.joined([BEFORE, description_text(name, Noun(KIND, look), 0)]).query()


def _at(answer: PhraseBoxes, box: Box) -> float:
    return float(answer.score_N[int(box_iou(answer.box_N4, [box]).argmax())])


def _others(rows: Dataset) -> Dataset:
    """The same scenes, each name known by the description of the next one."""
    every = list(names().values())
    next_one = dict(zip(every, [*every[1:], every[0]], strict=True))
    samples = (rows[row] for row in range(len(rows)))
    return Pool.from_samples(
        [
            replace(
                sample,
                extras={**sample.extras, "nouns": {name: known_of(look_of(next_one[name])) for name in sample.extras["nouns"]}},
            )
            for sample in samples
        ],
        name=rows.name,
    )
