"""Planted models that estimate lengths and say so in words: one from what things usually measure, one against a thing of known
size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.prompt import PromptLike, as_dialogue
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.quizzes.q_spatial import FIELD
from diptych.tasks.choice.q_spatial import QSpatial

How = Literal["prior", "reference", "one metre"]
SPREAD = 1.5
"""Standard deviation of the logarithm of true lengths, whose middle is a metre."""
SMOKE_QUESTIONS = 12
KINDS = ("width", "height", "distance")


def lengths(questions: int, *, seed: int) -> Pool:
    """Questions about lengths of things that are not shown, each a sample of its own."""
    picture = ArrayImage(np.full((4, 4, 3), 128, np.uint8), "plain")
    samples = []
    for number in range(questions):
        metres = math.exp(SPREAD * float(keyed_rng("length", seed, number).standard_normal()))
        asked = {"question": f"How long is thing {number}?", "value": metres, "unit": "m", "kind": KINDS[number % len(KINDS)]}
        samples.append(Sample(f"s{number:04d}", picture, extras={FIELD: asked}))
    return Pool.from_samples(samples, name="planted lengths")


@dataclass(frozen=True)
class Estimator:
    """A model that writes.

    how    "prior" errs by a factor whose logarithm has the deviation `prior`; "reference" takes the ratio to a thing of typical
           size: the size errs by `size`, each of two measurements by `measuring`; "one metre" says so of everything
    """

    how: How = "reference"
    prior: float = 1.0
    size: float = 0.15
    measuring: float = 0.15
    seed: int = 0
    truths: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.how

    def taught(self, data: Pool) -> Estimator:
        found = (data[row].extras[FIELD] for row in range(len(data)))
        return replace(self, truths={asked["question"]: asked["value"] for asked in found})

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [self._reply(as_dialogue(prompt).turns[-1].text.removeprefix("Question: ").splitlines()[0]) for prompt in prompts]

    def _reply(self, question: str) -> str:
        rng, truth = keyed_rng("estimate", self.seed, question), self.truths[question]
        if self.how == "one metre":
            return r"\scalar{1} \distance_unit{meter}"
        if self.how == "prior":
            guess = truth * math.exp(self.prior * float(rng.standard_normal()))
            return rf"It seems so to me. \scalar{{{100 * guess:,.1f}}} \distance_unit{{cm}}"
        size, first, second = rng.standard_normal(3) * (self.size, self.measuring, self.measuring)
        guess = truth * math.exp(float(size + first - second))
        return rf"A door is typically 2 m high; by that ratio: \scalar{{{guess / 0.3048:,.3f}}} \distance_unit{{feet}}"


@dataclass(frozen=True)
class Estimating:
    """What the protocol says of an estimator on so many questions."""

    estimator: Estimator
    task: QSpatial
    questions: int = 200

    def __call__(self, cell: Cell) -> Scores:
        data = lengths(SMOKE_QUESTIONS if cell.smoke else self.questions, seed=cell.seed)
        result = self.task.score(self.task.predict(replace(self.estimator, seed=cell.seed).taught(data), data))
        found = {name: metric.value for name, metric in result.metrics.items() if "/" not in name and not np.isnan(metric.value)}
        return found | {"success_as_released": result.notes["success_by_parser"]["released"]}
