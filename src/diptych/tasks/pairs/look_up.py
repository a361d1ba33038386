"""Nearest-neighbour retrieval baseline: the recall that a split allows by comparing only pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.core.errors import DiptychError
from diptych.data.dataset import Pool
from diptych.models.closed_form.model import raw_input_model
from diptych.tasks.pairs.retrieval import Retrieval

TRAINED, TESTED = 5_000, 2_000
"""Maximum number of rows read from training and from a held-out split, evenly spaced."""


@dataclass(frozen=True, slots=True)
class LookUpScore:
    """Recall at 1 over both directions, by the words of the nearest training images, and the chance level."""

    split: str
    recall: float
    chance: float
    rows: int

    def __str__(self) -> str:
        return f"{self.split}: {self.recall:.3f}, chance {self.chance:.3f}, {self.rows:,} rows"


def look_up_scores(data: Pool, *, language: str = "") -> list[LookUpScore]:
    """Scores for every held-out split of data with a "train" split; empty without such splits, or if rows lack images or
    texts."""
    if "train" not in data.split_names:
        return []
    try:
        model = raw_input_model(_some(data.split("train"), TRAINED), "nearest picture", language=language)
        scores = []
        for name in data.split_names:
            if name == "train":
                continue
            part, task = _some(data.split(name), TESTED), Retrieval(language=language, texts_per_image=1, draws=1)
            recall = task.score(task.predict(model, part)).metrics["r@1"]
            scores.append(LookUpScore(name, recall.value, recall.chance, len(part)))
        return scores
    except DiptychError:  # pictures that cannot be read, rows without texts: the report names them
        return []


def _some(rows: Pool, count: int) -> Pool:
    return rows if len(rows) <= count else rows.select(np.linspace(0, len(rows) - 1, count).astype(np.int64))
