"""Programs over described objects: "the red cup that is on the table" instead of a label or a box.

A description has a number of elements: attributes of the object itself, one related object, and attributes of that. It is asked about by
the label, an attribute, or the relation to another described object. An object fits a description if its own elements include it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from diptych.curate.programs.attribute_types import OTHER
from diptych.curate.programs.graph import ImageGraph, drawn
from diptych.curate.programs.nouns import listed
from diptych.curate.programs.questions import Program, ProgramQuestion, Settings, one_of, sampled

Rng = np.random.Generator


class Neighbour(NamedTuple):
    """A related object of a description.

    forward  True if the described object is the subject of the relation
    """

    label: str
    attributes: tuple[str, ...]
    predicate: str
    forward: bool

    @property
    def words(self) -> str:
        name = _named(self.attributes, self.label)
        return f"is {self.predicate} the {name}" if self.forward else f"the {name} is {self.predicate}"


class Description(NamedTuple):
    """Description of an object: attributes, sorted, and a related object or none."""

    attributes: tuple[str, ...]
    neighbour: Neighbour | None = None

    def words(self, joint: Literal[" that", ", which"]) -> str:
        """
        >>> Description(("red",), Neighbour("table", (), "on", True)).words(" that")
        'red object that is on the table'
        """
        head = _named(self.attributes, "object")
        return f"{head}{joint} {self.neighbour.words}" if self.neighbour else head


Descriptions = list[dict[Description, set[int]]]
"""For each object its descriptions, and by which related objects each comes about (-1: by none)."""


def descriptions_of(graph: ImageGraph, elements: int) -> Descriptions:
    """Every description of `elements` elements of every object."""
    key = ("descriptions", elements)
    if key not in graph.memory:
        graph.memory[key] = [_describe(graph, row, elements) for row in range(len(graph.labels))]
    remembered: Descriptions = graph.memory[key]
    return remembered


def _describe(graph: ImageGraph, row: int, elements: int) -> dict[Description, set[int]]:
    own = sorted(graph.attributes[row])
    ways: dict[Description, set[int]] = {Description(some): {-1} for some in combinations(own, elements)}
    for other, links in _links(graph)[row].items():
        theirs = sorted(graph.attributes[other])
        for more in range(min(len(theirs), elements - 1) + 1):
            for mine in combinations(own, elements - 1 - more):
                for some in combinations(theirs, more):
                    for predicate, forward in links:
                        neighbour = Neighbour(graph.labels[other], some, predicate, forward)
                        ways.setdefault(Description(mine, neighbour), set()).add(other)
    return ways


def _links(graph: ImageGraph) -> Mapping[int, dict[int, dict[tuple[str, bool], None]]]:
    """For each object the related ones, with predicate and direction of every relation."""
    if "links" not in graph.memory:
        links: dict[int, dict[int, dict[tuple[str, bool], None]]] = defaultdict(lambda: defaultdict(dict))
        for subject, predicate, other in graph.relations:
            if subject != other:
                links[subject][other][predicate, True] = None
                links[other][subject][predicate, False] = None
        graph.memory["links"] = links
    remembered: Mapping[int, dict[int, dict[tuple[str, bool], None]]] = graph.memory["links"]
    return remembered


def _fitting(graph: ImageGraph, settings: Settings) -> list[tuple[list[int], dict[Description, list[int]]]]:
    """Connected groups of objects, each with the descriptions of its objects and who fits them: among all objects of the image, or by
    habit among those of the group."""
    key = ("fitting", settings.elements, "ambiguous" in settings.habits)
    if key in graph.memory:
        kept: list[tuple[list[int], dict[Description, list[int]]]] = graph.memory[key]
        return kept
    every = descriptions_of(graph, settings.elements)
    groups = []
    for group in graph.components():
        if len(group) < 2:
            continue
        among = group if "ambiguous" in settings.habits else range(len(graph.labels))
        fits: dict[Description, list[int]] = {description: [] for row in group for description in every[row]}
        for row in among:
            for description in every[row]:
                if description in fits:
                    fits[description].append(row)
        groups.append((group, fits))
    graph.memory[key] = groups
    return groups


def graph_object(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Which object fits a description; every label that does is the answer."""
    table = [(group, *pair) for group, fits in _fitting(graph, settings) for pair in fits.items()]
    asked = []
    for group, description, rows in drawn(table, settings.most, rng):
        labels = tuple(dict.fromkeys(graph.labels[row] for row in rows))
        wrong = sampled([graph.labels[row] for row in group], settings.options - 1, rng, without=labels)
        slots = {"reference": description.words(" that")}
        asked.append(ProgramQuestion("graph_object", slots, labels, one_of(labels, rng), wrong, {"object": labels}))
    return asked


def graph_attribute(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Which attribute of a type the described object has; the description has none of that type."""
    kinds = settings.types.type_of
    table = []
    for _, fits in _fitting(graph, settings):
        for description, rows in fits.items():
            values: dict[str, dict[str, None]] = defaultdict(dict)
            for row in rows:
                for attribute in graph.attributes[row]:
                    values[kinds[attribute]][attribute] = None
            mentioned = {kinds[attribute] for attribute in description.attributes}
            table += [(description, kind, tuple(some)) for kind, some in values.items() if kind not in mentioned]
    asked = []
    for description, kind, some in drawn(table, settings.most, rng):
        wrong = sampled(settings.types.words[kind], settings.options - 1, rng, without=some)
        slots = {"reference": description.words(" that"), "type": "attribute" if kind == OTHER else kind}
        asked.append(ProgramQuestion("graph_attribute", slots, some, one_of(some, rng), wrong, {"attribute": some}))
    return asked


def graph_relation(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Relation between two described objects; each description fits one object and does not name the other."""
    every, single = descriptions_of(graph, settings.elements), {}
    for _, fits in _fitting(graph, settings):
        single.update({description: rows[0] for description, rows in fits.items() if len(rows) == 1})
    sides: dict[tuple[int, int], tuple[list[Description], list[Description]]] = {}
    for subject, other in graph.related:
        if subject != other:
            sides[subject, other] = (_apart_from(every[subject], other, single), _apart_from(every[other], subject, single))
    sizes = [len(one) * len(two) for one, two in sides.values()]
    total = sum(sizes)
    if not total:
        return []
    picks = np.arange(total)
    if settings.most and total > settings.most:
        picks = np.sort(rng.choice(total, settings.most, replace=False))
    ends = np.cumsum(sizes)
    pairs, asked = list(sides), []
    for pick in picks.tolist():
        number = int(np.searchsorted(ends, pick, side="right"))
        pair = pairs[number]
        one, two = sides[pair]
        inside = pick - (int(ends[number]) - sizes[number])
        first, second = one[inside // len(two)], two[inside % len(two)]
        predicates = graph.related[pair]
        count = settings.options - ("five_relations" not in settings.habits)
        wrong = sampled(settings.relations, count, rng, without=predicates)
        slots = {"reference": first.words(", which"), "other_reference": second.words(", which")}
        metadata = {"relation": predicates}
        asked.append(ProgramQuestion("graph_relation", slots, predicates, one_of(predicates, rng), wrong, metadata))
    return asked


def _apart_from(ways: dict[Description, set[int]], other: int, single: Mapping[Description, int]) -> list[Description]:
    return [description for description, by in ways.items() if description in single and by != {other}]


def _named(attributes: tuple[str, ...], label: str) -> str:
    return f"{listed(attributes)} {label}" if attributes else label


DESCRIPTION_PROGRAMS = (
    Program("graph_object", "which object fits a description", graph_object, ("boxes", "relations")),
    Program("graph_relation", "relation between two described objects", graph_relation, ("boxes", "relations")),
    Program(
        "graph_attribute", "attribute of a type of a described object", graph_attribute, ("boxes", "attributes", "relations")
    ),
)
