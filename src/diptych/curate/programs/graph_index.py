"""Index of graphs by what their images show: classes with their counts, relations, and pairs of classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diptych.curate.programs.graph import ImageGraph


@dataclass(frozen=True, slots=True)
class GraphWords:
    """Labels, attributes and relations of a graph, as programs over several images read them."""

    uid: str
    labels: tuple[str, ...]
    attributes: tuple[tuple[str, ...], ...]
    relations: tuple[tuple[int, str, int], ...]

    @classmethod
    def of(cls, graph: ImageGraph) -> GraphWords:
        return cls(graph.uid, graph.labels, graph.attributes, graph.relations)

    def attributes_of(self, label: str) -> list[tuple[str, ...]]:
        """Attributes of each object of a class."""
        return [some for other, some in zip(self.labels, self.attributes, strict=True) if other == label]

    def relations_of(self, subject: str, other: str) -> tuple[str, ...]:
        """Predicates between two classes, sorted."""
        labels = self.labels
        return tuple(sorted({p for s, p, o in self.relations if labels[s] == subject and labels[o] == other}))


Pair = tuple[str, str]


@dataclass(frozen=True)
class SceneGraphIndex:
    """Images by what they show."""

    graphs: Sequence[GraphWords]

    @cached_property
    def by_label(self) -> dict[str, dict[int, int]]:
        """Maps each class to its images, with its count in each."""
        index: dict[str, dict[int, int]] = defaultdict(dict)
        for row, graph in enumerate(self.graphs):
            for label, count in Counter(graph.labels).items():
                index[label][row] = count
        return dict(index)

    @cached_property
    def by_relation(self) -> dict[tuple[Pair, str], list[int]]:
        """Maps each (pair of classes, predicate) to its images."""
        index: dict[tuple[Pair, str], dict[int, None]] = defaultdict(dict)
        for row, graph in enumerate(self.graphs):
            for subject, predicate, other in graph.relations:
                index[(graph.labels[subject], graph.labels[other]), predicate][row] = None
        return {key: list(rows) for key, rows in index.items()}

    @cached_property
    def by_pair(self) -> dict[Pair, list[int]]:
        """Maps each pair of related classes to the images in which they are related."""
        index: dict[Pair, dict[int, None]] = defaultdict(dict)
        for (pair, _), rows in self.by_relation.items():
            index[pair].update(dict.fromkeys(rows))
        return {pair: sorted(rows) for pair, rows in index.items()}

    @cached_property
    def _frequent(self) -> dict[tuple[str, int], list[Any]]:
        return {}

    def frequent(self, index: str, least: int) -> list[Any]:
        """Keys of `by_label`, `by_relation` or `by_pair` with at least `least` images."""
        key = (index, least)
        if key not in self._frequent:
            self._frequent[key] = [name for name, rows in getattr(self, index).items() if len(rows) >= least]
        return self._frequent[key]
