"""Programs over several images: which image shows something, what all share, how many there are in all, how images differ.

A program makes one attempt at a time: it draws a class and images, and returns None when they do not fit.
`questions_about_several` bounds the number of attempts, so it may return fewer questions than were requested.

Where the answer is an image, the the images are shuffled when the question is written, and named "Image 0", "Image 1", ...
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, permutations
from typing import Any

import numpy as np

from diptych.curate.programs.graph_index import SceneGraphIndex
from diptych.curate.programs.nouns import countable, listed, near_counts
from diptych.curate.programs.questions import (
    Metadata,
    Need,
    ProgramQuestion,
    Settings,
    Slot,
    counts_in_words,
    one_of,
    sampled,
)
from diptych.curate.text.plurals import plural

Rng = np.random.Generator
ORDERS = 1000
"""Orders of what images show, of which wrong answers are drawn."""


@dataclass(frozen=True, slots=True)
class SeveralQuestion:
    """A question about several images.

    images        rows of the index
    answer_image  position among `images` of the one that is asked for; None if the answer is words
    """

    question: ProgramQuestion
    images: tuple[int, ...]
    answer_image: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptInputs:
    """Index, settings and random numbers of an attempt."""

    index: SceneGraphIndex
    images: int
    settings: Settings
    rng: Rng


Attempt = Callable[[AttemptInputs], SeveralQuestion | None]


@dataclass(frozen=True, slots=True)
class SeveralProgram:
    """A program over several images; see `Program`."""

    name: str
    about: str
    attempt: Attempt
    needs: tuple[Need, ...]


def questions_about_several(
    program: SeveralProgram, index: SceneGraphIndex, settings: Settings, rng: Rng, *, images: int, most: int, tries: int = 50
) -> list[SeveralQuestion]:
    """Returns at most `most` distinct questions, making up to `tries` attempts for each.

    images  number of images per question
    """
    draw, questions, asked = AttemptInputs(index, images, settings, rng), list[SeveralQuestion](), set[object]()
    for _ in range(tries * most):
        if len(questions) == most:
            break
        one = program.attempt(draw)
        if one is None:
            continue
        key = (frozenset(one.images), *sorted((name, value) for name, value in one.question.slots.items()))
        if key not in asked:
            asked.add(key)
            questions.append(one)
    return questions


def with_images_shuffled(one: SeveralQuestion, rng: Rng) -> SeveralQuestion:
    """The question with its images in random order and the answer renumbered; unchanged if the answer is text."""
    if one.answer_image is None:
        return one
    order = rng.permutation(len(one.images)).tolist()
    position = order.index(one.answer_image)
    names = tuple(image_name(number) for number in range(len(order)))
    wrong = tuple(name for number, name in enumerate(names) if number != position)
    old = one.question
    question = ProgramQuestion(old.program, old.slots, (names[position],), names[position], wrong, old.metadata)
    return SeveralQuestion(question, tuple(one.images[row] for row in order), position)


def image_name(number: int) -> str:
    """Name of an image in an answer, counted from 0."""
    return f"Image {number}"


# ---------------------------------------------------------------- which image


def _which(program: str, images: Iterable[int], answer: int, slots: dict[str, Slot], metadata: Metadata) -> SeveralQuestion:
    rows = tuple(sorted(images))
    return SeveralQuestion(ProgramQuestion(program, slots, (), "", (), metadata), rows, rows.index(answer))


def has_relation(draw: AttemptInputs) -> SeveralQuestion | None:
    """In which image one class stands in a relation to another; in the others the same two stand in other relations."""
    return _by_relation(draw, "has_relation", 1, draw.images - 1)


def has_not_relation(draw: AttemptInputs) -> SeveralQuestion | None:
    """In which image one class does not stand in a relation to another, but in another one."""
    return _by_relation(draw, "has_not_relation", draw.images - 1, 1)


def _by_relation(draw: AttemptInputs, program: str, with_it: int, without: int) -> SeveralQuestion | None:
    key = _one(draw.index.frequent("by_relation", with_it), draw.rng)
    if key is None:
        return None
    pair, predicate = key
    there = draw.index.by_relation[key]
    elsewhere = [row for row in draw.index.by_pair[pair] if row not in set(there)]
    if len(elsewhere) < without:
        return None
    shown, other = _some(there, with_it, draw.rng), _some(elsewhere, without, draw.rng)
    slots: dict[str, Slot] = {"subject": pair[0], "object": pair[1], "relation": predicate}
    answer = shown[0] if program == "has_relation" else other[0]
    return _which(program, shown + other, answer, slots, {"relation": (predicate,), "object": pair})


def has_object(draw: AttemptInputs) -> SeveralQuestion | None:
    """Which image shows a class that no other does."""
    if len(draw.index.graphs) < draw.images:
        return None
    rows = sorted(draw.rng.choice(len(draw.index.graphs), draw.images, replace=False).tolist())
    times = Counter(label for row in rows for label in dict.fromkeys(draw.index.graphs[row].labels))
    label = _one([label for label, count in times.items() if count == 1], draw.rng)
    if label is None:
        return None
    answer = next(row for row in rows if label in draw.index.graphs[row].labels)
    return _which("has_object", rows, answer, {"object": label}, {"object": (label,)})


def has_not_object(draw: AttemptInputs) -> SeveralQuestion | None:
    """Which image lacks a class that all others show."""
    label = _one(draw.index.frequent("by_label", max(1, draw.images - 1)), draw.rng)
    if label is None:
        return None
    there = draw.index.by_label[label]
    elsewhere = [row for row in range(len(draw.index.graphs)) if row not in there]
    if not elsewhere:
        return None
    answer = one_of(elsewhere, draw.rng)
    rows = [*_some(list(there), draw.images - 1, draw.rng), answer]
    return _which("has_not_object", rows, answer, {"object": label}, {"object": (label,)})


def has_attributed_object(draw: AttemptInputs) -> SeveralQuestion | None:
    """Which of several images with a class shows it with an attribute."""
    label, rows = _images_of_a_class(draw, draw.images)
    there = _rows_by_attribute(draw, label, rows)
    attribute = _one([name for name, some in there.items() if len(some) == 1], draw.rng)
    if attribute is None:
        return None
    metadata = {"object": (label,), "attribute": (attribute,)}
    return _which("has_attributed_object", rows, there[attribute][0], {"object": label, "attribute": attribute}, metadata)


def has_not_attributed_object(draw: AttemptInputs) -> SeveralQuestion | None:
    """Which of several images with a class never shows it with an attribute that it has in all others."""
    filled = "absent_class" in draw.settings.habits
    label, rows = _images_of_a_class(draw, 2 if filled else draw.images)
    there = _rows_by_attribute(draw, label, rows)
    attribute = _one([name for name, some in there.items() if len(some) == len(rows) - 1], draw.rng)
    if attribute is None:
        return None
    answer = next(row for row in rows if row not in there[attribute])
    if filled and draw.images > 2:
        elsewhere = [row for row in range(len(draw.index.graphs)) if row not in draw.index.by_label[label]]
        if len(elsewhere) < draw.images - 2:
            return None
        rows = [*rows, *_some(elsewhere, draw.images - 2, draw.rng)]
    metadata = {"object": (label,), "attribute": (attribute,)}
    return _which("has_not_attributed_object", rows, answer, {"object": label, "attribute": attribute}, metadata)


def has_extreme_object(program: str) -> Attempt:
    """Which image shows most or fewest of a class that occurs in all of them, in each a different number of times."""

    def attempt(draw: AttemptInputs) -> SeveralQuestion | None:
        label = _one(draw.index.frequent("by_label", draw.images), draw.rng)
        if label is None or not countable(label, draw.settings.countable):
            return None
        by_count: dict[int, list[int]] = defaultdict(list)
        for row, count in draw.index.by_label[label].items():
            by_count[count].append(row)
        if len(by_count) < draw.images:
            return None
        counts = _some(list(by_count), draw.images, draw.rng)
        rows = {count: one_of(by_count[count], draw.rng) for count in counts}
        answer = rows[max(counts) if program == "has_most_object" else min(counts)]
        return _which(program, rows.values(), answer, {"objects": plural(label)}, {"object": (label,)})

    return attempt


# ---------------------------------------------------------------- all images together


def common_object(draw: AttemptInputs) -> SeveralQuestion | None:
    """Which classes all images show."""
    label, rows = _images_of_a_class(draw, draw.images)
    if not rows:
        return None
    every = [dict.fromkeys(draw.index.graphs[row].labels) for row in rows]
    shared = tuple(name for name in every[0] if all(name in some for some in every))
    wrong = sampled([name for some in every for name in some], draw.settings.options - 1, draw.rng, without=shared)
    if not wrong:
        return None
    return SeveralQuestion(ProgramQuestion("common_object", {}, shared, label, wrong, {"object": shared}), tuple(rows))


def common_attribute(draw: AttemptInputs) -> SeveralQuestion | None:
    """Which attributes a class has in all images."""
    label, rows = _images_of_a_class(draw, draw.images)
    there = _rows_by_attribute(draw, label, rows)
    shared = tuple(name for name, some in there.items() if len(some) == draw.images)
    wrong = sampled(list(there), draw.settings.options - 1, draw.rng, without=shared)
    if not shared or not wrong:
        return None
    metadata = {"object": (label,), "attribute": shared}
    question = ProgramQuestion("common_attribute", {"object": label}, shared, one_of(shared, draw.rng), wrong, metadata)
    return SeveralQuestion(question, tuple(rows))


def count_object(draw: AttemptInputs) -> SeveralQuestion | None:
    """Count of a class in all images together."""
    label, rows = _images_of_a_class(draw, draw.images)
    if not rows or not countable(label, draw.settings.countable):
        return None
    count = sum(draw.index.by_label[label][row] for row in rows)
    return _counted("count_object", draw, rows, count, {"objects": plural(label)}, {"object": (label,)})


def count_attribute_object(draw: AttemptInputs) -> SeveralQuestion | None:
    """Count of a class with an attribute in all images together; asked of attributes that occur more than once."""
    label, rows = _images_of_a_class(draw, draw.images)
    if not rows or not countable(label, draw.settings.countable):
        return None
    graphs = [draw.index.graphs[row] for row in rows]
    counts = Counter(name for graph in graphs for some in graph.attributes_of(label) for name in some)
    attribute = _one([name for name, count in counts.items() if count > 1], draw.rng)
    if attribute is None:
        return None
    slots: dict[str, Slot] = {"objects": plural(label), "attribute": attribute}
    metadata = {"object": (label,), "attribute": (attribute,)}
    return _counted("count_attribute_object", draw, rows, counts[attribute], slots, metadata)


def _counted(
    program: str, draw: AttemptInputs, rows: list[int], count: int, slots: dict[str, Slot], metadata: Metadata
) -> SeveralQuestion:
    words = counts_in_words(near_counts(count, draw.settings.options), draw.settings, draw.rng)
    return SeveralQuestion(ProgramQuestion(program, slots, words[:1], words[0], words[1:], metadata), tuple(rows))


# ---------------------------------------------------------------- how images differ


def compare_attribute(draw: AttemptInputs) -> SeveralQuestion | None:
    """Differences between images in the attributes of the only object of a class."""
    label, rows = _images_of_a_class(draw, draw.images)
    shown = []
    for row in rows:
        some = draw.index.graphs[row].attributes_of(label)
        if len(some) != 1 or not some[0]:
            return None
        shown.append(tuple(sorted(some[0])))
    metadata = {"object": (label,), "attribute": tuple(name for some in shown for name in some)}
    return _compared("compare_attribute", draw, rows, shown, f"{label} is", "", {"object": label}, metadata)


def compare_relation(draw: AttemptInputs) -> SeveralQuestion | None:
    """Differences between images in the relation between the only objects of two classes."""
    pair = _one(draw.index.frequent("by_pair", draw.images), draw.rng)
    if pair is None:
        return None
    rows = sorted(_some(draw.index.by_pair[pair], draw.images, draw.rng))
    graphs = [draw.index.graphs[row] for row in rows]
    if any(graph.labels.count(label) > 1 for graph in graphs for label in pair):
        return None
    shown = [graph.relations_of(*pair) for graph in graphs]
    metadata = {"object": pair, "relation": tuple(name for some in shown for name in some)}
    slots: dict[str, Slot] = {"subject": pair[0], "object": pair[1]}
    return _compared("compare_relation", draw, rows, shown, f"{pair[0]} is", f" {pair[1]}", slots, metadata)


def _compared(
    program: str,
    draw: AttemptInputs,
    rows: list[int],
    shown: list[tuple[str, ...]],
    head: str,
    tail: str,
    slots: dict[str, Slot],
    metadata: Metadata,
) -> SeveralQuestion | None:
    if not rows or len(set(shown)) < len(shown):
        return None

    def words(order: Sequence[tuple[str, ...]]) -> str:
        statements = [f"{listed(some)}{tail} in {image_name(number)}" for number, some in enumerate(order)]
        return f"{head} {', '.join(statements)}."

    right = words(shown)
    wrong = sampled([words(order) for order in islice(permutations(shown), ORDERS)], draw.settings.options - 1, draw.rng, [right])
    return SeveralQuestion(ProgramQuestion(program, slots, (right,), right, wrong, metadata), tuple(rows))


# ---------------------------------------------------------------- draws


def _images_of_a_class(draw: AttemptInputs, images: int) -> tuple[str, list[int]]:
    """Draws a class that occurs in at least `images` images, and that many of them, sorted; the list is empty if no class
    does."""
    label = _one(draw.index.frequent("by_label", images), draw.rng)
    if label is None:
        return "", []
    return label, sorted(_some(list(draw.index.by_label[label]), images, draw.rng))


def _rows_by_attribute(draw: AttemptInputs, label: str, rows: Iterable[int]) -> dict[str, list[int]]:
    there: dict[str, dict[int, None]] = defaultdict(dict)
    for row in rows:
        for some in draw.index.graphs[row].attributes_of(label):
            for name in some:
                there[name][row] = None
    return {name: list(some) for name, some in there.items()}


def _one(items: Sequence[Any], rng: Rng) -> Any:
    """One random item; None for an empty sequence."""
    return one_of(items, rng) if items else None


def _some(items: Sequence[int], count: int, rng: Rng) -> list[int]:
    """`count` distinct items, drawn at random."""
    return [items[row] for row in rng.choice(len(items), count, replace=False).tolist()]


_LABELS: tuple[Need, ...] = ("boxes",)
_ATTRIBUTES: tuple[Need, ...] = ("boxes", "attributes")
_RELATIONS: tuple[Need, ...] = ("boxes", "relations")
SEVERAL_PROGRAMS = (
    SeveralProgram("has_relation", "in which image a relation holds", has_relation, _RELATIONS),
    SeveralProgram("has_not_relation", "in which image a relation does not hold", has_not_relation, _RELATIONS),
    SeveralProgram("has_object", "which image shows a class", has_object, _LABELS),
    SeveralProgram("has_not_object", "which image lacks a class", has_not_object, _LABELS),
    SeveralProgram("has_attributed_object", "which image shows a class with an attribute", has_attributed_object, _ATTRIBUTES),
    SeveralProgram("has_not_attributed_object", "which image lacks it", has_not_attributed_object, _ATTRIBUTES),
    SeveralProgram("has_most_object", "which image shows most of a class", has_extreme_object("has_most_object"), _LABELS),
    SeveralProgram("has_least_object", "which image shows fewest of a class", has_extreme_object("has_least_object"), _LABELS),
    SeveralProgram("common_object", "which classes all images show", common_object, _LABELS),
    SeveralProgram("common_attribute", "which attributes of a class all images share", common_attribute, _ATTRIBUTES),
    SeveralProgram("count_object", "how many of a class in all", count_object, _LABELS),
    SeveralProgram("count_attribute_object", "how many with an attribute in all", count_attribute_object, _ATTRIBUTES),
    SeveralProgram("compare_relation", "how a relation differs between images", compare_relation, _RELATIONS),
    SeveralProgram("compare_attribute", "how attributes differ between images", compare_attribute, _ATTRIBUTES),
)
