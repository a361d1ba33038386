"""Question programs about labels, positions, attributes and relations of single objects: the first thirteen of ProVision."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from diptych.core.scene_graph import Box
from diptych.curate.programs.attribute_types import OTHER
from diptych.curate.programs.graph import ImageGraph
from diptych.curate.programs.nouns import countable, listed, near_counts
from diptych.curate.programs.questions import (
    Ask,
    Metadata,
    Program,
    ProgramQuestion,
    Settings,
    Slot,
    counted_name,
    counts_in_words,
    one_of,
    printed_box,
    sampled,
    shuffled,
)

Rng = np.random.Generator


def exists_object(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Asks for the count of a class."""
    asked = []
    for label, count in graph.counts.items():
        if countable(label, settings.countable):
            words = counts_in_words(near_counts(count, settings.options), settings, rng)
            slots = {"name": counted_name(label, count, settings)}
            asked.append(_question("exists_object", slots, words[0], words[1:], {"object": (label,), "count": (count,)}))
    return asked


def frequent_object(which: Literal["most", "least"]) -> Ask:
    """Asks which of several classes occurs most or least. Boxes that contain another box do not count."""
    program = f"{which}_object"
    beats: Callable[[int, int], bool] = int.__gt__ if which == "most" else int.__lt__

    def ask(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
        labels = [graph.labels[row] for row in graph.without_containers]
        counts = Counter(label for label in labels if countable(label, settings.countable))
        if len(counts) < 2:
            return []
        name = (max if which == "most" else min)(counts, key=lambda label: counts[label])
        others = [label for label in counts if beats(counts[name], counts[label])]
        if "ambiguous" not in settings.habits:  # the answer must not change if containers are counted
            others = [label for label in others if beats(graph.counts[name], graph.counts[label])]
        wrong = sampled(others, settings.options - 1, rng)
        if not wrong:
            return []
        return [_question(program, {"candidates": (name, *wrong)}, name, wrong, {"object": (name,)})]

    return ask


def extreme_object(side: Literal["left", "right", "top", "bottom"]) -> Ask:
    """Asks which of several uniquely labelled objects, non-overlapping along the axis, is farthest to a side."""
    axis: Literal["x", "y"] = "x" if side in ("left", "right") else "y"
    ends: dict[str, Callable[[Box], float]] = {
        "left": lambda box: box[0],
        "right": lambda box: -box[2],
        "top": lambda box: box[1],
        "bottom": lambda box: -box[3],
    }
    key = ends[side]

    def ask(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
        asked = []
        for rows in graph.apart(settings.extremes, axis, rng, settings.most):
            name = graph.labels[min(rows, key=lambda row: key(graph.boxes[row]))]
            labels = tuple(graph.labels[row] for row in rows)
            wrong = tuple(label for label in labels if label != name)
            asked.append(_question(f"{side}most_object", {"candidates": labels}, name, wrong, {"object": (name,)}))
        return asked

    return ask


def exists_attribute(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Asks for the count of a class with exactly a set of attributes."""
    described = [(tuple(sorted(some)), label) for some, label in zip(graph.attributes, graph.labels, strict=True)]
    asked = []
    for (attributes, label), count in Counter(one for one in described if one[0]).items():
        if not countable(label, settings.countable):
            continue
        fitting = sum(label == other and set(attributes) <= set(more) for more, other in described)
        if fitting != count and "ambiguous" not in settings.habits:
            continue
        words = counts_in_words(near_counts(count, settings.options), settings, rng)
        slots = {"name": f"{listed(shuffled(attributes, rng))} {counted_name(label, count, settings)}"}
        metadata: Metadata = {"object": (label,), "attribute": attributes, "count": (count,)}
        asked.append(_question("exists_attribute", slots, words[0], words[1:], metadata))
    return asked


def attribute_box(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Asks for the attributes of the object of a class in a box."""
    asked = []
    for row, box in _named_boxes(graph, settings):
        attributes, label = graph.attributes[row], graph.labels[row]
        wrong = sampled(settings.types.every, settings.options - 1, rng, without=attributes)
        metadata = {"object": (label,), "attribute": attributes}
        slots = {"name": label, "box": box}
        asked.append(ProgramQuestion("attribute_box", slots, attributes, one_of(attributes, rng), wrong, metadata))
    return asked


def typed_attribute_box(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Asks for the attribute of one type of the object of a class in a box."""
    asked = []
    for row, box in _named_boxes(graph, settings):
        by_type: dict[str, list[str]] = defaultdict(list)
        for attribute in graph.attributes[row]:
            by_type[settings.types.type_of[attribute]].append(attribute)
        for kind, some in by_type.items():
            if kind == OTHER:
                continue
            wrong = sampled(settings.types.words[kind], settings.options - 1, rng, without=some)
            slots = {"name": graph.labels[row], "box": box, "type": kind}
            metadata = {"object": (graph.labels[row],), "attribute": tuple(some)}
            asked.append(ProgramQuestion("typed_attribute_box", slots, tuple(some), one_of(some, rng), wrong, metadata))
    return asked


def exists_relation(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Asks for the relation between two objects with unique labels."""
    unique = set(graph.unique)
    asked = []
    for (subject, other), predicates in graph.related.items():
        if subject in unique and other in unique:
            slots = {"subject": graph.labels[subject], "object": graph.labels[other]}
            asked.append(_relation("exists_relation", slots, graph, (subject, other), predicates, settings, rng))
    return asked


def relation_box(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Asks for the relation between the objects in two boxes."""
    printed = [printed_box(box, graph.width, graph.height) for box in graph.boxes]
    times = Counter(printed)
    asked = []
    for (subject, other), predicates in graph.related.items():
        if times[printed[subject]] == times[printed[other]] == 1 or "ambiguous" in settings.habits:
            slots = {"box": printed[subject], "other_box": printed[other]}
            asked.append(_relation("relation_box", slots, graph, (subject, other), predicates, settings, rng))
    return asked


def head_relation(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Asks which of several classes has a relation to another. Other classes that also have it are not among the options."""
    heads: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for subject, predicate, other in graph.relations:
        heads[graph.labels[other], predicate].setdefault(graph.labels[subject])
    asked = []
    for (tail, relation), names in heads.items():
        labels = [label for label in graph.counts if label not in names and label != tail]
        if not labels:
            continue
        for name in names:
            wrong = sampled(labels, settings.options - 1, rng)
            slots: dict[str, Slot] = {"candidates": (name, *wrong), "relation": relation, "object": tail}
            asked.append(_question("head_relation", slots, name, wrong, {"object": (name, tail), "relation": (relation,)}))
    return asked


def _question(program: str, slots: Mapping[str, Slot], answer: str, wrong: Sequence[str], metadata: Metadata) -> ProgramQuestion:
    return ProgramQuestion(program, slots, (answer,), answer, tuple(wrong), metadata)


def _relation(
    program: str,
    slots: Mapping[str, Slot],
    graph: ImageGraph,
    pair: tuple[int, int],
    predicates: tuple[str, ...],
    settings: Settings,
    rng: Rng,
) -> ProgramQuestion:
    wrong = sampled(settings.relations, settings.options - 1, rng, without=predicates)
    metadata = {"object": tuple(graph.labels[row] for row in pair), "relation": predicates}
    return ProgramQuestion(program, slots, predicates, one_of(predicates, rng), wrong, metadata)


def _named_boxes(graph: ImageGraph, settings: Settings) -> list[tuple[int, str]]:
    """Objects with attributes and their printed boxes, except those that share their box with another object of the same
    label."""
    printed = [printed_box(box, graph.width, graph.height) for box in graph.boxes]
    times = Counter(zip(graph.labels, printed, strict=True))
    return [
        (row, box)
        for row, box in enumerate(printed)
        if graph.attributes[row] and (times[graph.labels[row], box] == 1 or "ambiguous" in settings.habits)
    ]


OBJECT_PROGRAMS = (
    Program("exists_object", "how many of a class", exists_object, ("boxes",)),
    Program("most_object", "which class occurs most", frequent_object("most"), ("boxes",)),
    Program("least_object", "which class occurs least", frequent_object("least"), ("boxes",)),
    Program("leftmost_object", "which object lies farthest left", extreme_object("left"), ("boxes",)),
    Program("rightmost_object", "which object lies farthest right", extreme_object("right"), ("boxes",)),
    Program("topmost_object", "which object lies highest", extreme_object("top"), ("boxes",)),
    Program("bottommost_object", "which object lies lowest", extreme_object("bottom"), ("boxes",)),
    Program("exists_attribute", "how many of a class with attributes", exists_attribute, ("boxes", "attributes")),
    Program("attribute_box", "attributes of the object in a box", attribute_box, ("boxes", "attributes")),
    Program("typed_attribute_box", "attribute of a type of the object in a box", typed_attribute_box, ("boxes", "attributes")),
    Program("exists_relation", "relation between two objects", exists_relation, ("boxes", "relations")),
    Program("relation_box", "relation between the objects in two boxes", relation_box, ("boxes", "relations")),
    Program("head_relation", "which class stands in a relation to another", head_relation, ("boxes", "relations")),
)
