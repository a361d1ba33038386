"""A question that a program asked, and the dialogue that it becomes: a template, a short answer or lettered options."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diptych.core.scene_graph import Box
from diptych.curate.programs.attribute_types import AttributeTypes
from diptych.curate.programs.graph import ImageGraph
from diptych.curate.programs.nouns import listed, number_words
from diptych.curate.programs.templates import OPTION_LEADS, TEMPLATES
from diptych.curate.text.plurals import plural

Slot = str | tuple[str, ...]
Need = Literal["boxes", "attributes", "relations", "masks", "depth"]
Metadata = Mapping[str, tuple[str | int, ...]]
FIELDS = ("object", "attribute", "relation", "count")
"""Fields of metadata."""
Habit = Literal["inverted_points", "first_points", "ambiguous", "five_relations", "absent_class", "singular"]
"""Behaviours of the released code that give wrong or ambiguous questions.

inverted_points  nearer and farther points are confused: the point with the smaller depth value is called closer
first_points     after a retry the first pair of points is printed; the last pair is asked about, even if its depth gap is too
                 small
ambiguous        questions are kept that other objects in the same image answer differently, such as a count of "red cups" when
                 another cup is red and large
five_relations   questions about the relation between two described objects have one extra option
absent_class     with more than two images, those outside the compared pair do not show the class at all
singular         "how many" names a class in the singular if there is only one, which gives the answer away
"""
HABITS: tuple[Habit, ...] = ("inverted_points", "first_points", "ambiguous", "five_relations", "absent_class", "singular")


@dataclass(frozen=True)
class Settings:
    """Settings that all programs share.

    types        attributes by type
    relations    predicates of the data, for options
    countable    labels for "how many" questions; empty: singular nouns that are not mass nouns
    options      options of a multiple-choice question
    gap          minimum difference of two depths, of 255, of which one is called nearer
    extremes     number of objects among which the leftmost, topmost, ... is asked for
    elements     attributes, related objects and their attributes in a description
    retries      number of samples of points after which a program gives up
    most         maximum number of candidate questions per program and image, sampled at random; 0: all
    numbers      counts in digits, in words, or at random
    habits       behaviour of the released code to reproduce
    """

    types: AttributeTypes = field(default_factory=AttributeTypes.usual)
    relations: tuple[str, ...] = ()
    countable: frozenset[str] = frozenset()
    options: int = 4
    gap: int = 50
    extremes: int = 3
    elements: int = 3
    retries: int = 10
    most: int = 64
    numbers: Literal["random", "digits", "words"] = "random"
    habits: tuple[Habit, ...] = ()


@dataclass(frozen=True, slots=True)
class ProgramQuestion:
    """A question of a program about an image.

    slots     values of the slots of its templates; several values of one slot are joined in random order
    answer    all true values, for a short answer
    choice    right value for a multiple choice; `wrong`: the wrong ones
    metadata  objects, attributes, relations and counts of the question, for balancing
    """

    program: str
    slots: Mapping[str, Slot]
    answer: tuple[str, ...]
    choice: str
    wrong: tuple[str, ...]
    metadata: Metadata


Ask = Callable[[ImageGraph, Settings, np.random.Generator], list[ProgramQuestion]]


@dataclass(frozen=True, slots=True)
class Program:
    """A program over the graph of one image.

    about  content of its questions
    needs  annotations that a graph must have
    """

    name: str
    about: str
    ask: Ask
    needs: tuple[Need, ...]
    balanced: bool = True
    """True if its questions have metadata, and count when questions are balanced."""


@dataclass(frozen=True, slots=True)
class ProgramTurn:
    """A question and its answer in words.

    question  question without options; `prompt` appends them
    answer    answer without a letter; `response` starts with the letter
    options   options of a multiple choice, in the order of their letters
    """

    question: str
    answer: str
    prompt: str
    response: str
    options: tuple[str, ...] = ()


def write_turn(question: ProgramQuestion, rng: np.random.Generator, *, choices: bool) -> ProgramTurn:
    """Writes a question with a randomly drawn template of its program; as a multiple-choice question if `choices`."""
    templates = TEMPLATES[question.program]
    text = fill(templates[int(rng.integers(len(templates)))], question.slots, rng)
    if not choices or not question.wrong:
        answer = listed(shuffled(question.answer, rng))
        return ProgramTurn(text, answer, text, answer)
    options = shuffled((question.choice, *question.wrong), rng)
    form = "{letter}. {text}" if rng.random() < 0.5 else "({letter}) {text}"
    lettered = [form.format(letter=string.ascii_uppercase[row], text=option) for row, option in enumerate(options)]
    lead = OPTION_LEADS[int(rng.integers(len(OPTION_LEADS)))]
    prompt = text + lead + ", ".join(lettered)
    return ProgramTurn(text, question.choice, prompt, lettered[options.index(question.choice)], options)


def conversation(turn: ProgramTurn, rng: np.random.Generator, *, images: int = 1) -> list[dict[str, str]]:
    """Two conversation entries in LLaVA's format; the image tokens precede or follow the question with equal probability."""
    marks = " ".join(["<image>"] * images)
    prompt = f"{turn.prompt}\n{marks}" if rng.random() < 0.5 else f"{marks}\n{turn.prompt}"
    return [{"from": "human", "value": prompt}, {"from": "gpt", "value": turn.response}]


def fill(template: str, slots: Mapping[str, Slot], rng: np.random.Generator) -> str:
    """A template with its slots filled."""
    named = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    values: dict[str, Any] = {}
    for name in named:
        value = slots[name]
        values[name] = value if isinstance(value, str) else listed(shuffled(value, rng))
    return template.format(**values)


def shuffled(items: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Items in random order."""
    return tuple(items[row] for row in rng.permutation(len(items)).tolist())


def sampled(items: Sequence[str], most: int, rng: np.random.Generator, without: Sequence[str] = ()) -> tuple[str, ...]:
    """At most `most` different items, none of `without`."""
    left = [item for item in dict.fromkeys(items) if item not in without]
    if len(left) <= most:
        return tuple(left)
    return tuple(left[row] for row in rng.choice(len(left), most, replace=False).tolist())


def one_of(items: Sequence[Any], rng: np.random.Generator) -> Any:
    """One item at random."""
    return items[int(rng.integers(len(items)))]


def counted_name(label: str, count: int, settings: Settings) -> str:
    """A class after "how many": in the plural, unless a habit names one object in the singular."""
    return label if count == 1 and "singular" in settings.habits else plural(label)


def counts_in_words(counts: Sequence[int], settings: Settings, rng: np.random.Generator) -> tuple[str, ...]:
    """Counts all in digits or all in words."""
    words = settings.numbers == "words" or (settings.numbers == "random" and rng.random() < 0.5)
    return tuple(number_words(count) if words else str(count) for count in counts)


def printed_point(x: float, y: float, width: int, height: int) -> str:
    """Formats a point as fractions of width and height with two decimals.

    >>> printed_point(16, 48, 64, 64)
    '(0.25, 0.75)'
    """
    return str((round(x / width, 2), round(y / height, 2)))


def printed_box(box: Box, width: int, height: int) -> str:
    """Formats a box as fractions of width and height with two decimals."""
    x0, y0, x1, y1 = (float(value) for value in box)
    return str((round(x0 / width, 2), round(y0 / height, 2), round(x1 / width, 2), round(y1 / height, 2)))
