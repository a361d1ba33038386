"""Label lists of a training step: the names of its own images, negatives from the whole corpus, "no objects" last.

A detector of relations is shown a list of object names and a list of relation names, with which of them are in the image. All images
of a batch share the lists, so each image's names are the others' negatives (label sequence extension, RLIP, 2209.01814).

1. The names of the batch, in order of first appearance.
2. Further names of the corpus, without repetition, until there are 333 object and 167 relation names (of 500); a batch that has
   more is neither extended nor cut.
3. "no objects", the background, after the object names. Relations have no background.

A closed set (80 objects, 117 verbs) is a `LabelLists` of its own and needs no sampler. All randomness comes from the generator that is
passed in: `Draws.rng`, keyed by (seed, step).

What implementations get wrong: negatives drawn again that the batch already has; a list whose order betrays which names are true
(harmless only while the model cannot see the order).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.scene_graph import SceneGraph
from diptych.data.graphs.columns import GraphColumns
from diptych.data.vocabularies import MISSING

NO_OBJECTS = "no objects"

Negatives = Literal["frequency", "random", "hard"]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LabelLists:
    """Object and relation names that one batch or one question is about, without the background.

    Raises DataError for a name that is empty, comes twice, or means the background.

    >>> lists = LabelLists(("person", "dog"), ("walking",))
    >>> lists.texts, lists.background
    (('person', 'dog', 'no objects', 'walking'), 2)
    """

    objects: tuple[str, ...]
    relations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("objects", "relations"):
            names = getattr(self, kind)
            for position, name in enumerate(names):
                if not isinstance(name, str) or not name.strip():
                    raise DataError(f"name {position} of the list is {name!r}", field=kind, expected="a word or more")
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise DataError(
                    f"{twice[0]!r} is {names.count(twice[0])} times in the list", field=kind, expected="each name once"
                )
        if NO_OBJECTS in self.objects:
            raise DataError(
                f"{NO_OBJECTS!r} is the background, which is added by itself", field="objects", expected="names of things"
            )

    @classmethod
    def of_query(cls, objects: Sequence[str], relations: Sequence[str] = ()) -> Self:
        """The lists of a user's question, where no object name at all is a mistake; blanks around names are cut off."""
        lists = cls(*(tuple(name.strip() for name in names) for names in (objects, relations)))
        if not lists.objects:
            raise DataError("the list is empty", field="objects", expected="at least one name to look for")
        return lists

    def to_json(self) -> list[list[str]]:
        """Objects and relations."""
        return [list(self.objects), list(self.relations)]

    @classmethod
    def from_json(cls, value: Sequence[Sequence[str]]) -> Self:
        """From `to_json`."""
        objects, relations = value
        return cls(tuple(objects), tuple(relations))

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts for the text encoder: objects, "no objects", relations."""
        return (*self.objects, NO_OBJECTS, *self.relations)

    @property
    def background(self) -> int:
        """Class index of "no objects": the one after the last object name."""
        return len(self.objects)

    @property
    def missing(self) -> int:
        """The class of an object that is not in the picture: that of `MISSING` where it is asked for (V-COCO), else the background."""
        return self.objects.index(MISSING) if MISSING in self.objects else self.background


@dataclass(frozen=True, slots=True)
class CorpusNames:
    """Every object and relation name of a corpus with how often it occurs, the most frequent first (by name on a tie)."""

    objects: tuple[str, ...] = ()
    object_counts: tuple[int, ...] = ()
    relations: tuple[str, ...] = ()
    relation_counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("object", "relation"):
            names, counts = getattr(self, f"{kind}s"), getattr(self, f"{kind}_counts")
            if len(names) != len(counts) or len(set(names)) != len(names) or min(counts, default=1) < 1:
                raise DataError(
                    f"{len(names)} names with {len(counts)} counts", field=f"{kind}s", expected="each name once, counts above 0"
                )

    @classmethod
    def counted(cls, objects: Mapping[str, int], relations: Mapping[str, int]) -> Self:
        """From counts by name; names that never occur are left out."""
        ranked = [
            sorted(((n, c) for n, c in counts.items() if c), key=lambda nc: (-nc[1], nc[0])) for counts in (objects, relations)
        ]
        columns = [tuple(part) for pairs in ranked for part in (zip(*pairs, strict=True) if pairs else ((), ()))]
        return cls(*columns)

    @classmethod
    def of(cls, data: Dataset, *, min_confidence: float = 0.0) -> Self:
        """The names of a data set; relations below `min_confidence` do not count."""
        graphs = GraphColumns.of(data)
        relations = zip(
            graphs.relations.column("predicate").to_pylist(), graphs.relations.numbers("confidence").tolist(), strict=True
        )
        return cls.counted(
            Counter(graphs.regions.column("label").to_pylist()),
            Counter(name for name, confidence in relations if confidence >= min_confidence),
        )

    def to_json(self) -> dict[str, Any]:
        """The published form: object_names, object_freq, relationship_names, relationship_freq."""
        return {
            "object_names": list(self.objects),
            "object_freq": dict(zip(self.objects, self.object_counts, strict=True)),
            "relationship_names": list(self.relations),
            "relationship_freq": dict(zip(self.relations, self.relation_counts, strict=True)),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, file: object = None) -> Self:
        """From the published form, regardless of its order."""
        for key in ("object_freq", "relationship_freq"):
            if not isinstance(value.get(key), Mapping):
                raise DataError(f"has no counts under {key!r}", file=file, field=key, expected="name -> count")
        return cls.counted(value["object_freq"], value["relationship_freq"])


@dataclass(frozen=True, kw_only=True)
class ListSampler:
    """Makes the lists of each step from the names of its images and of the corpus.

    length         object and relation names together
    object_share   of which objects
    negatives      which names of the corpus are added: drawn by how often they occur ("frequency", published), each alike
                   ("random"), or those most similar to the names of the batch ("hard", which needs `features`; the release renews its
                   features in training and counts a name of the batch as often as it stands there)
    triplet_share  share of the batch's kinds of triplets that are asked for: the list then holds the names of these only, and what
                   is not asked for is no target. 1 asks for every name of every region (published)
    features       of the corpus' object names and relation names, in their order: [N, D] each
    """

    names: CorpusNames = CorpusNames()
    length: int = 500
    object_share: float = 2 / 3
    negatives: Negatives = "frequency"
    triplet_share: float = 1.0
    features: tuple[Features, Features] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.length < 0 or not 0 <= self.object_share <= 1 or not 0 < self.triplet_share <= 1:
            got = f"length {self.length}, object_share {self.object_share}, triplet_share {self.triplet_share}"
            raise ConfigError(
                f"label lists cannot be made with {got} (expected length >= 0 and shares in [0, 1], triplet_share above 0)"
            )
        if self.negatives not in get_args(Negatives):
            raise ConfigError(f"negatives is {self.negatives!r} (expected {' | '.join(get_args(Negatives))})")
        if self.negatives == "hard":
            expected = len(self.names.objects), len(self.names.relations)
            given = (0, 0) if self.features is None else tuple(len(each) for each in self.features)
            if given != expected:
                raise ConfigError(f"hard negatives need features of {expected} object and relation names, got {given}")

    def lists(self, graphs: Sequence[SceneGraph], rng: np.random.Generator) -> LabelLists:
        """The lists for these graphs, the graphs' own names first."""
        own = names_of(graphs)
        names = own if self.triplet_share == 1 else self._some_triplets(graphs, rng)
        room = int(self.length * self.object_share)
        objects = (*names[0], *self._negatives(0, own[0], room - len(names[0]), rng))
        return LabelLists(objects, (*names[1], *self._negatives(1, own[1], self.length - room - len(names[1]), rng)))

    def _some_triplets(self, graphs: Sequence[SceneGraph], rng: np.random.Generator) -> tuple[list[str], list[str]]:
        """The names of a random share of the kinds of triplets, at least of one; of all regions when there is no triplet."""
        kinds = list(dict.fromkeys(triplet for graph in graphs for triplet in graph.triplets()))
        if not kinds:
            return names_of(graphs)
        chosen = sorted(rng.permutation(len(kinds))[: math.ceil(self.triplet_share * len(kinds))])
        things = dict.fromkeys(name for n in chosen for name in (kinds[n][0], kinds[n][2]))
        return list(things), list(dict.fromkeys(kinds[n][1] for n in chosen))

    def _negatives(self, kind: int, own: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        """`count` names of the corpus (kind 0: objects, 1: relations) that are not among the batch's own, or all there are."""
        names = (self.names.objects, self.names.relations)[kind]
        taken = set(own)
        if self.negatives == "hard":
            unit_ND = self._unit_features[kind]
            key_N = unit_ND @ unit_ND[[n for n, name in enumerate(names) if name in taken]].sum(0)
        else:
            # The largest of log(count) + Gumbel noise are draws without replacement, each proportional to the counts that are left.
            key_N = rng.gumbel(size=len(names)) + (self._log_counts[kind] if self.negatives == "frequency" else 0)
        order = np.argsort(-key_N, kind="stable")
        return list(itertools.islice((names[n] for n in order if names[n] not in taken), max(0, count)))

    @cached_property
    def _log_counts(self) -> list[npt.NDArray[np.float64]]:
        return [np.log(np.array(counts, np.float64)) for counts in (self.names.object_counts, self.names.relation_counts)]

    @cached_property
    def _unit_features(self) -> list[Features]:
        return [table_ND / np.maximum(np.linalg.norm(table_ND, axis=1, keepdims=True), 1e-12) for table_ND in self.features or ()]


def names_of(graphs: Iterable[SceneGraph]) -> tuple[list[str], list[str]]:
    """Object names and relation names in order of first appearance.

    >>> from diptych.core.scene_graph import Region, Relation
    >>> pets = SceneGraph((Region((0, 0, 4, 4), "dog"), Region((2, 2, 9, 9), "ball")), (Relation(0, "chasing", 1),))
    >>> names_of([pets, pets])
    (['dog', 'ball'], ['chasing'])
    """
    graphs = list(graphs)
    objects = dict.fromkeys(region.label for graph in graphs for region in graph.regions)
    relations = dict.fromkeys(relation.predicate for graph in graphs for relation in graph.relations)
    return list(objects), list(relations)
