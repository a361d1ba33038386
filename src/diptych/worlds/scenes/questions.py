"""Scenes with questions about them: which colour, which shape, how many, whether there is one. `world:questions`.

The truth is that of the scene, so every answer is right, and every kind of question has answers that are equally likely where the scene
allows it. Questions about a thing name it by what no other thing of the scene has.

>>> len(questions(4, seed=0))
4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.layout import COLOURS, SHAPES
from diptych.worlds.scenes.world import SceneWorld, Split

NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
KINDS = ("colour", "shape", "count", "there")


NAME = "questions"


@dataclass(frozen=True)
class QuestionWorld(SceneWorld):
    """A scenes world with flat looks whose samples carry questions."""

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        questions = make_questions(made.extras["things"], keyed_rng(NAME, self.seed, split, index))
        uid = uid_of(NAME, self.seed, split, index)
        return replace(made, uid=uid, extras={**made.extras, FIELD: questions}, source=f"world:{NAME}")


def make_questions(things: Sequence[dict[str, Any]], rng: Any) -> list[dict[str, str]]:
    """A question of each kind that these things allow, in the order of `KINDS`."""
    colours, shapes = [thing["colour"] for thing in things], [thing["label"] for thing in things]
    questions: list[dict[str, str]] = []
    only = [row for row, shape in enumerate(shapes) if shapes.count(shape) == 1]
    if only:
        row = only[int(rng.integers(len(only)))]
        questions.append({"question": f"what colour is the {shapes[row]} ?", "answer": colours[row], "kind": "colour"})
    only = [row for row, colour in enumerate(colours) if colours.count(colour) == 1]
    if only:
        row = only[int(rng.integers(len(only)))]
        questions.append({"question": f"what shape is {colours[row]} ?", "answer": shapes[row], "kind": "shape"})
    colour = str(rng.choice(colours)) if rng.random() < 0.5 else str(rng.choice(COLOURS))
    questions.append({"question": f"how many are {colour} ?", "answer": NUMBERS[colours.count(colour)], "kind": "count"})
    row = int(rng.integers(len(things)))
    there = bool(rng.random() < 0.5)
    absent = [shape for shape in SHAPES if shape not in shapes]
    shape = shapes[row] if there else str(rng.choice(absent))
    questions.append({"question": f"is there a {shape} ?", "answer": "yes" if there else "no", "kind": "there"})
    return questions


def questions(n: int = 2000, *, seed: int = 0, split: Split = "train", size: int = 64, max_objects: int = 2) -> RenderedDataset:
    """The first `n` scenes of one split, of two things (up to `max_objects`), with a short caption and a question of each kind that
    the scene allows: colour, shape, count, there."""
    world = QuestionWorld(seed=seed, size=size, max_objects=max_objects, lengths=("short",), paraphrases=0, negatives=False)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
