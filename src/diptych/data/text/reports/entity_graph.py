"""Entities with their names and relations, and a dictionary linker that marks them in texts.

A graph comes from a JSON file {"entities": {name: [synonym, ...]}, "triples": [[head, relation, tail], ...]}, or from a data set's own
findings and places (`finding_places`): "located at" where a report states a pair, "seen with" for findings of one report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from diptych.core.disk.json_text import read_object
from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng
from diptych.data.text.reports.finding_places import UNSPECIFIED, FindingPlace

EXPECTED = '{"entities": {"nodule": ["nodules"]}, "triples": [["nodule", "located at", "left lung"]]}'


class LinkedEntity(NamedTuple):
    """A half-open span of characters and the index of its entity."""

    start: int
    stop: int
    entity: int


@dataclass(frozen=True)
class EntityGraph:
    """Entities and triples between them.

    names      preferred name and synonyms of each entity
    relations  names of the relations
    triples    (head, relation, tail) by index
    """

    names: tuple[tuple[str, ...], ...]
    relations: tuple[str, ...] = ()
    triples: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        for head, relation, tail in self.triples:
            if not (0 <= head < len(self.names) and 0 <= tail < len(self.names) and 0 <= relation < len(self.relations)):
                raise DataError(
                    f"triple {[head, relation, tail]} does not name an entity", field="triples", expected="indices that exist"
                )

    def linked(self, text: str) -> list[LinkedEntity]:
        """Mentions of entities as whole words in any case, from left to right; of overlapping ones the longest.

        >>> EntityGraph((("nodule", "nodules"), ("left lung",))).linked("Nodules of the left lung.")
        [LinkedEntity(start=0, stop=7, entity=0), LinkedEntity(start=15, stop=24, entity=1)]
        """
        matches = self._pattern.finditer(text) if self.names else ()
        return [LinkedEntity(*match.span(), self._index[_key(match.group())]) for match in matches]

    def to_json(self) -> str:
        """The graph as text."""
        return json.dumps({"names": self.names, "relations": self.relations, "triples": self.triples}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> EntityGraph:
        """The graph that `to_json` wrote."""
        values = json.loads(text)
        triples = tuple((head, relation, tail) for head, relation, tail in values["triples"])
        return cls(tuple(map(tuple, values["names"])), tuple(values["relations"]), triples)

    def shuffled(self, seed: int) -> EntityGraph:
        """The same triples between entities that are exchanged at random: a graph that says nothing."""
        order = keyed_rng("shuffled graph", seed).permutation(len(self.names)).tolist()
        triples = tuple((order[head], relation, order[tail]) for head, relation, tail in self.triples)
        return EntityGraph(self.names, self.relations, triples)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {_key(name): at for at, names in reversed([*enumerate(self.names)]) for name in names}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._index, key=len, reverse=True)
        return re.compile(
            r"\b(" + "|".join(r"[\s_]+".join(map(re.escape, name.split())) for name in longest_first) + r")\b", re.IGNORECASE
        )


def read_graph(path: Path) -> EntityGraph:
    """The graph of a JSON file. Raises DataError for another form, and for a triple that names an unknown entity."""
    values = read_object(path)
    entities, triples = values.get("entities"), values.get("triples", [])
    if not isinstance(entities, dict) or not entities or not isinstance(triples, list):
        raise DataError("contains no entities", file=path, expected=EXPECTED)
    index = {str(name): at for at, name in enumerate(entities)}
    relations = list(dict.fromkeys(str(row[1]) for row in triples if isinstance(row, list) and len(row) == 3))
    made = []
    for number, row in enumerate(triples):
        if not isinstance(row, list) or len(row) != 3 or row[0] not in index or row[2] not in index:
            raise DataError(f"triple is {str(row)[:60]}", file=path, row=number, field="triples", expected=EXPECTED)
        made.append((index[row[0]], relations.index(str(row[1])), index[row[2]]))
    names = tuple((str(name), *map(str, synonyms)) for name, synonyms in entities.items())
    return EntityGraph(names, tuple(relations), tuple(made))


def graph_of_pairs(samples: Iterable[Sequence[FindingPlace]]) -> EntityGraph:
    """The graph of what reports state: present pairs and findings that are present together, each once, in alphabetical order."""
    findings, sites, located, together = set[str](), set[str](), set[tuple[str, str]](), set[tuple[str, str]]()
    for pairs in samples:
        present = sorted({pair.finding for pair in pairs if pair.status == "present"})
        together.update((one, other) for at, one in enumerate(present) for other in present[at + 1 :])
        findings.update(pair.finding for pair in pairs)
        sites.update(pair.place for pair in pairs if pair.place != UNSPECIFIED)
        located.update((pair.finding, pair.place) for pair in pairs if pair.status == "present" and pair.place != UNSPECIFIED)
    names = [*sorted(findings), *sorted(sites - findings)]
    index = {name: at for at, name in enumerate(names)}
    triples = [(index[one], 0, index[other]) for one, other in sorted(located)]
    triples += [(index[one], 1, index[other]) for one, other in sorted(together)]
    return EntityGraph(tuple((name,) for name in names), ("located at", "seen with"), tuple(triples))


def _key(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
