"""Caption of a scene graph: every object with its attributes, and one relation of each related pair.

Objects without relations come first, then each connected group, ordered by its relations if they define an order. Objects with
the same label and attributes are distinguished by ordinals.
"""

from __future__ import annotations

from collections import defaultdict

import networkx as nx
import numpy as np

from diptych.curate.programs.graph import ImageGraph
from diptych.curate.programs.nouns import is_plural, listed, ordinal, with_article
from diptych.curate.programs.questions import Program, ProgramQuestion, Settings, one_of, shuffled

Rng = np.random.Generator


def graph_caption(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
    """Describes the whole graph; returns an empty list for a graph without objects."""
    groups = graph.components()
    alone = [group[0] for group in groups if len(group) == 1]
    parts = [_things(graph, alone, rng)] if alone else []
    parts += [_group(graph, group, rng) for group in groups if len(group) > 1]
    if not parts:
        return []
    text = "\n\n".join(part[0].upper() + part[1:] for part in parts)
    return [ProgramQuestion("graph_caption", {}, (text,), text, (), {})]


def _things(graph: ImageGraph, rows: list[int], rng: Rng) -> str:
    names = [f"{listed(shuffled(graph.attributes[row], rng))} {graph.labels[row]}".strip() for row in rows]
    verb = "is" if len(names) == 1 and not is_plural(graph.labels[rows[0]]) else "are"
    return f"there {verb} {listed(shuffled(names, rng))}."


def _group(graph: ImageGraph, group: list[int], rng: Rng) -> str:
    targets: dict[int, dict[str, list[int]]] = {row: defaultdict(list) for row in group}
    for subject, predicate, other in one_edge_each(graph, group, rng):
        targets[subject][predicate].append(other)
    numbers = _numbers(graph, group)
    mentioned: set[int] = set()

    def name(row: int, article: str) -> str:
        words = f"{listed(shuffled(graph.attributes[row], rng))} {graph.labels[row]}".strip()
        if row in numbers:
            return f"the {ordinal(numbers[row])} {words}"
        if article == "the" or row in mentioned:
            return f"the {words}"
        return words if is_plural(graph.labels[row]) else with_article(words)

    clauses = []
    for row in _order(group, targets):
        if targets[row]:
            verb, head = "are" if is_plural(graph.labels[row]) else "is", name(row, "a")
            statements = [
                f"{verb} {predicate} {listed(shuffled([name(one, 'the') for one in some], rng))}"
                for predicate, some in targets[row].items()
            ]
            mentioned |= {row, *(other for some in targets[row].values() for other in some)}
            clauses.append(f"{head} {listed(shuffled(statements, rng))}")
        elif row not in mentioned:
            clauses.append(f"there is {name(row, 'a')}")
    return ";\n".join(clauses) + "."


def _numbers(graph: ImageGraph, group: list[int]) -> dict[int, int]:
    """Ordinals, from 1, of the objects that share label and attributes with another object of the group."""
    alike: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for row in group:
        alike[graph.labels[row], tuple(sorted(graph.attributes[row]))].append(row)
    return {row: number for rows in alike.values() if len(rows) > 1 for number, row in enumerate(rows, start=1)}


def one_edge_each(graph: ImageGraph, group: list[int], rng: Rng) -> list[tuple[int, str, int]]:
    """One relation for each related pair of the group, in either direction."""
    pairs: dict[tuple[int, int], list[tuple[int, str, int]]] = defaultdict(list)
    inside = set(group)
    for subject, predicate, other in graph.relations:
        if subject in inside and subject != other:
            pairs[min(subject, other), max(subject, other)].append((subject, predicate, other))
    return [one_of(some, rng) for some in pairs.values()]


def _order(group: list[int], targets: dict[int, dict[str, list[int]]]) -> list[int]:
    """Orders subjects before objects; in a cycle, the object with the most relations comes first."""
    graph = nx.DiGraph()
    graph.add_nodes_from(group)
    graph.add_edges_from((row, other) for row, named in targets.items() for some in named.values() for other in some)
    if nx.is_directed_acyclic_graph(graph):
        return list(nx.topological_sort(graph))
    return sorted(group, key=lambda row: graph.degree[row], reverse=True)


CAPTION_PROGRAM = Program(
    "graph_caption", "a caption of the whole graph", graph_caption, ("boxes", "attributes", "relations"), False
)
