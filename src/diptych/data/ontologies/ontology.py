"""Concepts in a hierarchy: names, synonyms, definitions, parents, ancestors.

A concept may have several parents and one name may belong to several concepts (both are common in the Disease Ontology), so this is a
directed acyclic graph and not a tree. It is checked when it is made: an unknown parent or a cycle is refused, since every question about
"above" would be answered wrongly, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, DataError, UnknownName

Missing = Literal["refuse", "drop"]
"""What becomes of a parent that is no concept of the file: an error, or as if it were not named (excerpts of a larger ontology)."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept.

    id           as the file has it ("DOID:1612")
    name         its preferred name
    synonyms     further names, without the preferred one
    definitions  sentences that say what it is
    parents      ids of the concepts directly above it
    """

    id: str
    name: str
    synonyms: tuple[str, ...] = ()
    definitions: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The preferred name, then the synonyms."""
        return (self.name, *self.synonyms)


class Ontology(Mapping[str, Concept]):
    """Concepts by id, in the order in which they came.

    >>> store = Ontology([Concept("1", "disease"), Concept("2", "cancer", parents=("1",)), Concept("3", "breast cancer", parents=("2",))])
    >>> sorted(store.ancestors("3")), store.related("1", "3"), store.chain("3")
    (['1', '2'], True, ['breast cancer', 'cancer', 'disease'])
    """

    def __init__(self, concepts: Iterable[Concept], *, name: str = "ontology", missing: Missing = "refuse") -> None:
        """Raises DataError, with `name` as its file, for an id that comes twice, a parent that is not there (unless `missing` is
        "drop") and a cycle."""
        if missing not in get_args(Missing):
            raise ConfigError(f"missing is {missing!r} (expected {' | '.join(get_args(Missing))})")
        self.name = name
        self._concepts: dict[str, Concept] = {}
        for concept in concepts:
            if concept.id in self._concepts:
                raise DataError(f"concept {concept.id!r} comes twice", file=name, field="id", expected="an id of its own")
            self._concepts[concept.id] = concept
        for concept in list(self._concepts.values()):
            unknown = [parent for parent in concept.parents if parent not in self._concepts]
            if unknown and missing == "refuse":
                raise DataError(
                    f"parent {unknown[0]!r} of concept {concept.id!r} ({concept.name}) is not in the file",
                    file=name,
                    field="parents",
                    expected="the whole ontology, or missing='drop' for an excerpt",
                )
            if unknown:
                parents = tuple(parent for parent in concept.parents if parent in self._concepts)
                self._concepts[concept.id] = replace(concept, parents=parents)
        self._above = self._closures()

    def __getitem__(self, key: str) -> Concept:
        try:
            return self._concepts[key]
        except KeyError:
            raise UnknownName(f"concept of '{self.name}'", key, self._concepts) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._concepts)

    def __len__(self) -> int:
        return len(self._concepts)

    def __contains__(self, key: object) -> bool:
        return key in self._concepts

    def ancestors(self, key: str) -> frozenset[str]:
        """Every concept above this one, itself left out. Raises UnknownName."""
        return self._above[self[key].id]

    def descendants(self, key: str) -> frozenset[str]:
        """Every concept below this one, itself left out. Raises UnknownName."""
        below = self[key].id
        return frozenset(other for other, above in self._above.items() if below in above)

    def related(self, one: str, other: str) -> bool:
        """True if both are the same concept, or one is an ancestor of the other. Ids that are no concepts are related to nothing, not even
        to themselves ("unknown").
        """
        if one not in self._concepts or other not in self._concepts:
            return False
        return one == other or one in self._above[other] or other in self._above[one]

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        """The ids directly below each concept."""
        children_of: dict[str, list[str]] = {key: [] for key in self._concepts}
        for concept in self._concepts.values():
            for parent in dict.fromkeys(concept.parents):
                children_of[parent].append(concept.id)
        return {key: tuple(below) for key, below in children_of.items()}

    @property
    def roots(self) -> tuple[str, ...]:
        """Concepts without a parent."""
        return tuple(concept.id for concept in self._concepts.values() if not concept.parents)

    @cached_property
    def by_name(self) -> Mapping[str, tuple[str, ...]]:
        """Ids by name and synonym in lower case: more than one where a name is shared."""
        ids_by_name: dict[str, list[str]] = defaultdict(list)
        for concept in self._concepts.values():
            for name in dict.fromkeys(name.lower() for name in concept.names):
                ids_by_name[name].append(concept.id)
        return {name: tuple(ids) for name, ids in ids_by_name.items()}

    def closed(self, keys: Iterable[str]) -> Ontology:
        """Only these concepts and everything above them. Raises UnknownName."""
        keep_ids = set[str]()
        for key in keys:
            keep_ids |= {self[key].id} | self._above[key]
        return Ontology((concept for key, concept in self._concepts.items() if key in keep_ids), name=self.name)

    def path(self, key: str, rng: np.random.Generator | None = None, *, stop: Sequence[str] = ()) -> list[str]:
        """Ids from this concept up to a root. Where several parents are there, `rng` chooses one at each step; without it the first is
        taken. A concept of `stop` ends the path and is left out, unless the path starts at it."""
        ids, here = [self[key].id], self[key]
        while here.parents and here.id not in stop:
            parents = here.parents
            here = self[parents[0] if rng is None else parents[int(rng.integers(len(parents)))]]
            if here.id in stop:
                break
            ids.append(here.id)
        return ids

    def chain(
        self, key: str, rng: np.random.Generator | None = None, *, synonyms: bool = False, stop: Sequence[str] = ()
    ) -> list[str]:
        """The names along a `path`. With `synonyms` each is drawn among all names of its concept, which takes `rng`."""
        if synonyms and rng is None:
            raise ConfigError("synonyms are drawn (expected rng)")
        path = [self[step] for step in self.path(key, rng, stop=stop)]
        if not synonyms or rng is None:
            return [concept.name for concept in path]
        return [concept.names[int(rng.integers(len(concept.names)))] for concept in path]

    def vectors(self, embedded: Mapping[str, npt.NDArray[np.floating]]) -> npt.NDArray[np.float32]:
        """[C, D] in the order of the concepts: the normalised mean of the vectors of a concept's names. `embedded` has a vector for
        every name that is used; a concept of which no name is embedded is refused by DataError."""
        rows = []
        for concept in self._concepts.values():
            name_vectors = [embedded[name] for name in concept.names if name in embedded]
            if not name_vectors:
                raise DataError(f"no name of concept {concept.id!r} ({concept.name}) has a vector", file=self.name, field="name")
            mean_D = np.mean(np.asarray(name_vectors, np.float64), axis=0)
            rows.append(mean_D / max(float(np.linalg.norm(mean_D)), 1e-12))
        return np.asarray(rows, np.float32)

    def _closures(self) -> dict[str, frozenset[str]]:
        """Ancestors of each concept. Parents come before their children; an explicit stack, since chains may be deep."""
        above: dict[str, frozenset[str]] = {}
        for start in self._concepts:
            path = [start]
            on_path = {start}
            while path:
                here = path[-1]
                waiting = next((p for p in self._concepts[here].parents if p not in above), None)
                if waiting is None:
                    parents = self._concepts[here].parents
                    above[here] = frozenset(parents).union(*(above[p] for p in parents))
                    on_path.discard(path.pop())
                elif waiting in on_path:
                    cycle = " -> ".join([*path[path.index(waiting) :], waiting])
                    raise DataError(
                        f"concept {waiting!r} lies above itself: {cycle}",
                        file=self.name,
                        field="parents",
                        expected="no cycle",
                    )
                else:
                    path.append(waiting)
                    on_path.add(waiting)
        return above
