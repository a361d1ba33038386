"""Questions about scenes, planted models of known skill that answer them, and a careless writer whose mistakes are known.

The models have no weights: they know the answers and give a right one as often as their skill says, a guesser an option at random. The
writer asks in words of its own, some of which no filter understands, and in every third question says something false or asks for a
thing that is not there. Whether an answer is right is read from the plan of the scene; the filters see boxes and relations, of which
annotators missed some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.core.image import ImageSource
from diptych.core.prompt import PromptLike
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.curate.text.plurals import plural
from diptych.curate.text.question_programs import NUMBERS, SymbolVocabulary
from diptych.curate.text.triplet_filters import drop_reasons
from diptych.data.text.question_answering.symbols import Symbols, symbols_of
from diptych.data.text.question_answering.triplets import Triplet
from diptych.tasks._scoring.answers.choices import LETTERS
from diptych.tasks.choice.auto_bench import AutoBench
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.scenes.layout import COLOURS, SHAPES
from diptych.worlds.scenes.world import scenes

PICTURES, SMOKE_PICTURES, SIDE = 120, 4, 64
MISTAKES, MISSED = 1 / 3, 0.1
"""Shares of questions that are wrong, and of things without a box."""


def pictures(cell: Cell) -> RenderedDataset:
    """Scenes of up to four things."""
    count = SMOKE_PICTURES if cell.smoke else PICTURES
    return scenes(
        count, seed=cell.seed, split="test", size=SIDE, max_objects=4, lengths=("short",), paraphrases=0, negatives=False
    )


class Skilled:
    """A `Generator` that knows the answers of a task's questions and gives them with the probability `skill`; None guesses."""

    def __init__(self, task: AutoBench, data: RenderedDataset, skill: float | None, seed: int) -> None:
        samples, asked = task.questions(data)
        self.name, self.skill, self.seed = f"skill {skill}", skill, seed
        names = {uid: sample.image.name for uid, sample in samples.items() if sample.image is not None}
        self.known = {(names[one.uid], one.question): one for one in asked}

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [self._said(image.name, str(prompt).split("\n")[0]) for image, prompt in zip(images, prompts, strict=True)]

    def _said(self, name: str, question: str) -> str:
        one = self.known[name, question]
        rng = keyed_rng("skilled", self.seed, str(self.skill), name, question)
        if self.skill is None:
            return LETTERS[int(rng.integers(len(one.options)))]
        right = one.options.index(one.answer)
        wrong = [place for place in range(len(one.options)) if place != right]
        return LETTERS[right if rng.random() < self.skill else wrong[int(rng.integers(len(wrong)))]]


@dataclass(frozen=True)
class Examined:
    """The score of a model of that skill; None is a guesser."""

    skill: float | None

    def __call__(self, cell: Cell) -> Scores:
        data = pictures(cell)
        task = AutoBench(blind=False, draws=1, seed=cell.seed)
        result = task.score(task.predict(Skilled(task, data, self.skill, cell.seed), data))
        return {name: result.metrics[name].value for name in ("accuracy", "accuracy/perception", "accuracy/reasoning")}


@dataclass(frozen=True)
class Sound:
    """The share of a careless writer's questions whose answers are right.

    filtered  what fails a filter goes
    at_random instead as many go as would fail, whichever they are
    """

    filtered: bool = False
    at_random: bool = False

    def __call__(self, cell: Cell) -> Scores:
        data = pictures(cell)
        samples = [data[row] for row in range(len(data))]
        rng = keyed_rng("careless writer", cell.seed)
        symbols = {sample.uid: _incomplete(symbols_of(sample, (SIDE, SIDE)), rng) for sample in samples}
        asked = [one for sample in samples for one in _careless(sample, rng)]
        found = drop_reasons([one for one, _ in asked], symbols, SymbolVocabulary.of(list(symbols.values())))
        kept = np.array([not reason for reason in found])
        if self.at_random:
            kept = rng.permutation(kept)
        elif not self.filtered:
            kept[:] = True
        right = np.array([right for _, right in asked])
        return {
            "sound": float(right[kept].mean()),
            "kept": float(kept.mean()),
            "sound_lost": float((right & ~kept).sum() / right.sum()),
        }


def _incomplete(symbols: Symbols, rng: Any) -> Symbols:
    """Some things are missing, and all relations with them."""
    kept = [row for row in range(len(symbols.things)) if rng.random() >= MISSED]
    place = {row: number for number, row in enumerate(kept)}
    relations = tuple((place[a], name, place[b]) for a, name, b in symbols.relations if a in place and b in place)
    return Symbols(symbols.captions, tuple(symbols.things[row] for row in kept), relations)


def _careless(sample: Sample, rng: Any) -> list[tuple[Triplet, bool]]:
    """Three questions about a scene by its plan, and whether their answers are right."""
    things = sample.extras["things"]
    labels = [str(thing["label"]) for thing in things]
    label = str(rng.choice(labels))
    made = [_counted(label, labels, rng), _there(labels, rng)]
    if labels.count(label) == 1:
        made.append(
            _coloured(label, str(things[labels.index(label)]["colour"]), [shape for shape in SHAPES if shape not in labels], rng)
        )
    return [
        (Triplet(sample.uid, "perception", kind, question, answer, (), "As the picture shows."), right)
        for kind, question, answer, right in made
    ]


Made = tuple[str, str, str, bool]


def _counted(label: str, labels: Sequence[str], rng: Any) -> Made:
    true = labels.count(label)
    said = true if rng.random() >= MISTAKES else true + int(rng.choice([-1, 1]))
    number = NUMBERS[said] if rng.random() < 0.5 else str(said)
    forms = (f"How many {plural(label)} are visible in the image?", f"What is the number of {plural(label)}?")
    return "count", forms[int(rng.random() < 0.3)], number, said == true


def _there(labels: Sequence[str], rng: Any) -> Made:
    asked = str(rng.choice(SHAPES))
    true = "yes" if asked in labels else "no"
    said = true if rng.random() >= MISTAKES else {"yes": "no", "no": "yes"}[true]
    return "object", f"Are there any {plural(asked)} in the picture?", said, said == true


def _coloured(label: str, colour: str, absent: Sequence[str], rng: Any) -> Made:
    if rng.random() >= MISTAKES:
        return "attribute", f"What color is the {label} that you see?", colour, True
    if absent and rng.random() < 0.5:
        return "attribute", f"What color is the {rng.choice(absent)}?", colour, False
    return "attribute", f"What color is the {label}?", str(rng.choice([one for one in COLOURS if one != colour])), False
