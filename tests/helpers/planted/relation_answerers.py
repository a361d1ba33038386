"""Planted models that answer yes-or-no questions about relations, whose knowledge is known: one looks, one goes by what usually holds.

In the pictures that "usually" comes from, each pair of shapes stands one way round only: a ring is always left of and above a star, or
always right of and below it, drawn once a seed. The pictures that are asked about know no such rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.text.question_answering.questions import FIELD
from diptych.data.text.question_answering.relation_questions import (
    RelationQuestion,
    RelationQuestionOptions,
    Usual,
    relation_questions,
    usual_relations,
)
from diptych.tasks.choice.mmrel import MMRel
from diptych.worlds.scenes.world import Split, scenes

Kind = Literal["looks", "usual", "always yes", "tosses a coin"]
ASKED = re.compile(r"Is the (?:\w+ )?(\w+) (left of|right of|above|below) the (?:\w+ )?(\w+)\?")
PLACES = ("left of", "right of", "above", "below")
FORWARD = frozenset({"left of", "above"})
ELSEWHERE, HERE, SMOKE = 1500, 300, 60


@dataclass(frozen=True)
class RelationAnswerer:
    """A `Generator` of "yes" and "no".

    kind   "looks" knows the relations of every picture, and errs in a share of the questions; "usual" says yes where the relation is the
           one that most often holds between two such shapes elsewhere, and tosses a coin where it knows none; the others look at nothing
    errs   the share
    truth  name of a picture -> what holds in it, (label, relation, label)
    """

    kind: Kind
    errs: float = 0.2
    truth: dict[str, frozenset[tuple[str, str, str]]] = field(default_factory=dict, repr=False)
    usual: Usual = field(default_factory=dict, repr=False)
    seed: int = 0

    @property
    def name(self) -> str:
        return self.kind

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [("no", "yes")[self._says_yes(image, str(prompt))] for image, prompt in zip(images, prompts, strict=True)]

    def _says_yes(self, image: ImageSource, question: str) -> bool:
        asked = ASKED.fullmatch(question)
        assert asked is not None
        subject, predicate, other = asked.groups()
        rng = keyed_rng("relation answerer", self.seed, image.name, question)
        if self.kind == "always yes":
            return True
        known = self.usual.get((subject, other))
        if self.kind == "tosses a coin" or (self.kind == "usual" and not known):
            return bool(rng.random() < 0.5)
        if self.kind == "usual" and known:
            return bool(known[predicate] == max(known.values()))
        return bool(((subject, predicate, other) in self.truth[image.name]) != (rng.random() < self.errs))


@dataclass(frozen=True)
class AskedAboutRelations:
    """What MMRel's protocol says of an answerer."""

    kind: Kind

    def __call__(self, cell: Cell) -> Scores:
        usual = usual_relations(one_way_round(placed(SMOKE if cell.smoke else ELSEWHERE, cell.seed, "train"), cell.seed))
        samples = placed(SMOKE if cell.smoke else HERE, cell.seed, "test")
        truth = {sample.uid: frozenset(sample.graph.triplets()) for sample in samples}
        model = RelationAnswerer(self.kind, truth=truth, usual=usual, seed=cell.seed)
        task = MMRel(draws=50, blind=False)
        data = Pool.from_samples(
            questioned(samples, RelationQuestionOptions(usual=usual, count=2, seed=cell.seed)), name="placed"
        )
        result = task.score(task.predict(model, data))
        return {name: metric.value for name, metric in result.metrics.items() if not np.isnan(metric.value)}


def placed(count: int, seed: int, split: Split) -> list[Sample]:
    """Scenes with their relations of place alone, between things of different shapes."""
    rows = scenes(count, seed=seed, split=split)
    return [_placed(rows[row]) for row in range(len(rows))]


def _placed(sample: Sample) -> Sample:
    labels = [region.label for region in sample.regions]
    stay = (r for r in sample.relations if r.predicate in PLACES and labels[r.subject] != labels[r.object])
    return replace(sample, relations=tuple(stay))


def one_way_round(samples: Sequence[Sample], seed: int) -> Iterator[Sample]:
    """The same without the relations that their shapes do not usually have."""
    for sample in samples:
        labels = [region.label for region in sample.regions]
        stay = (r for r in sample.relations if _usual(labels[r.subject], r.predicate, labels[r.object], seed))
        yield replace(sample, relations=tuple(stay))


def _usual(subject: str, predicate: str, other: str, seed: int) -> bool:
    first, second = sorted((subject, other))
    forward = bool(keyed_rng("one way round", seed, first, second).random() < 0.5)
    return (predicate in FORWARD) == (forward == (subject == first))


def questioned(samples: Sequence[Sample], asked: RelationQuestionOptions) -> list[Sample]:
    """Samples with the questions that their relations give."""
    return [
        replace(sample, extras={**sample.extras, FIELD: [_plain(one) for one in found]})
        for sample, found in zip(samples, relation_questions(samples, asked), strict=True)
        if found
    ]


def _plain(one: RelationQuestion) -> dict[str, Any]:
    return {"question": one.text, "answer": "yes" if one.true else "no", "kind": one.kind, "facets": {"part": one.part}}
