"""Index of scene graphs, searched by triplets such as (person, riding, horse).

The graphs are a detector's, found once when a picture is indexed, or with `AnnotatedGraphs` in the model's place those that the
data have. Every triplet is a term of a sparse vector, and so is every form of it with one or two of its names left open; the
weight of a term is the confidence of the best triplet that fits. So a question is one look-up in an inverted index, and its score
is that confidence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, Unpack

from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import SceneGraph
from diptych.index.base import Index
from diptych.index.embed import images_of
from diptych.index.engine.store import EngineQuery, IndexItem, Space, SparseSpace, SparseVector, Vectors
from diptych.index.exact import Hit
from diptych.index.items import ItemBatch, What
from diptych.index.lexicon import TermVocabulary
from diptych.index.plan import ByExamples, ByImage, ByText, ByTriplet, Options, Part, SearchPlan
from diptych.index.ranking import RankingPlan

TRIPLETS = "triplets"  # the space
ANY = ""  # a name that is left open
OPEN = ("", "*", "?", "any")  # how people write it
TOP = 100  # triplets of a picture that are kept, the most confident ones
DETECTED = 16  # pictures that the detector gets at a time

Pattern = tuple[str, str, str]


@dataclass(frozen=True)
class AnnotatedGraphs:
    """Scene graphs of the data, used in place of a detector."""

    name: ClassVar[str] = "annotations"
    fingerprint: ClassVar[str] = "annotations-1"


class GraphIndex(Index):
    """Searches by triplet. Options of `build`: objects and relations, the names that the detector is asked for (empty: those it was
    trained with), and min_confidence, below which a triplet is not kept."""

    kind: ClassVar[str] = "graphs"
    holds: ClassVar[tuple[What, ...]] = ("images",)
    read_once: ClassVar[tuple[str, ...]] = ("_vocabulary",)
    compare: ClassVar[str] = TRIPLETS

    @classmethod
    def check_model(cls, model: Any, what: What) -> None:
        if not isinstance(model, Detector | AnnotatedGraphs):
            raise ConfigError(
                f"an index of kind '{cls.kind}' needs a detector, or 'annotations' (the graphs of the data); '{model.name}' is neither"
            )

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        objects, relations = (tuple(options.pop(name, ())) for name in ("objects", "relations"))
        least = float(options.pop("min_confidence", 0.05))
        super().settings(model, pool, what, **options)
        if not 0 <= least < 1:
            raise ConfigError(f"min_confidence is {least} (expected 0 or more, below 1)")
        if isinstance(model, AnnotatedGraphs):
            if objects or relations:
                raise ConfigError("annotations have the names they have (expected no objects and no relations)")
        else:
            objects = objects or tuple(getattr(model, "objects", ()))
            relations = relations or tuple(getattr(model, "relations", ()))
            if not objects or not relations:
                raise ConfigError(f"'{model.name}' has no names of its own (expected objects=[...] and relations=[...])")
        return {"objects": list(objects), "relations": list(relations), "min_confidence": least}

    def spaces(self) -> list[Space]:
        return [SparseSpace(TRIPLETS)]

    @cached_property
    def _vocabulary(self) -> TermVocabulary:
        return TermVocabulary(self.folder)

    def vocabulary_terms(self) -> list[str]:
        return self._vocabulary.terms()

    def takes(self, sample: Sample) -> bool:
        return isinstance(self._model, AnnotatedGraphs) or super().takes(sample)

    def triplets(self) -> list[Pattern]:
        """All triplets of the vocabulary, sorted; pictures that were removed leave theirs."""
        return sorted(pattern for term in self._vocabulary.terms() if ANY not in (pattern := _pattern(term)))

    # ------------------------------------------------------------ filling

    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        """Sparse vectors of the pictures; those without any triplet are left out."""
        terms = [terms_of(graph) for graph in self._graphs(samples)]
        self._vocabulary.learn(term for row in terms for term in row)
        return [{TRIPLETS: self._vocabulary.encode(row)} if row else {} for row in terms]

    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        raise ConfigError(f"an index of kind '{self.kind}' holds images, not texts")

    def _graphs(self, samples: Sequence[Sample]) -> list[SceneGraph]:
        """Scene graphs of samples, cached until their block is stored."""
        model = self._ready()
        graphs = (
            [sample.graph for sample in samples]
            if isinstance(model, AnnotatedGraphs)
            else self._detect_graphs(images_of(samples))
        )
        kept = [graph.strongest(top=TOP, min_score=self._facts.option("min_confidence", float)) for graph in graphs]
        self._known.update({sample.uid: graph for sample, graph in zip(samples, kept, strict=True)})
        return kept

    def _detect_graphs(self, images: Sequence[ImageSource]) -> list[SceneGraph]:
        names = {name: self._facts.option(name, list) for name in ("objects", "relations")}
        parts = (images[start : start + DETECTED] for start in range(0, len(images), DETECTED))
        return [graph for part in parts for graph in self._ready().detect(part, **names)]

    @cached_property
    def _known(self) -> dict[str, SceneGraph]:
        return {}

    def blocks(self, pool: Dataset) -> Iterator[ItemBatch]:
        """Item batches with the triplets of each picture, for display."""
        for block in super().blocks(pool):
            items = [
                replace(item, payload={**item.payload, "triplets": stored_triplets(self._known[str(item.payload["uid"])])})
                for item in block.items
            ]
            self._known.clear()
            yield replace(block, items=tuple(items))

    # ------------------------------------------------------------ answering

    def ranking(self, plan: SearchPlan) -> RankingPlan:
        """A triplet finds the pictures with the most confident triplet of that form, and a hit's `triplets` are those that fit; a
        picture or an example finds those that share what is in it."""
        vector, shown, examples = self._terms_of(plan.parts[0])
        return RankingPlan(
            lambda limit: [EngineQuery(TRIPLETS, vector, limit)] if len(vector.indices) else [],
            without=tuple(item.id for item in examples),
            format_hit=shown,
        )

    def search_triplet(self, pattern: Pattern, k: int = 10, **options: Unpack[Options]) -> list[Hit]:
        """Search by a triplet; "" leaves a name open. Raises ConfigError when all are, UnknownName for a name that no picture has."""
        return self.answer(SearchPlan((ByTriplet(pattern),), k, **options))

    def _terms_of(self, part: Part) -> tuple[SparseVector, Callable[[Hit], Hit], list[IndexItem]]:
        """Query terms of a part, the function that formats a hit, and the items that the part names."""
        match part:
            case ByText(string):
                return self._terms_of(ByTriplet(triplet(string)))
            case ByTriplet(names):
                pattern = self._spelled_pattern(names)
                return self._vocabulary.encode({_term(pattern): 1.0}), lambda hit: matching_triplets(hit, pattern), []
            case ByImage(image):
                return self._vocabulary.encode(terms_of(self._read(image))), lambda hit: hit, []
            case ByExamples(uids):
                items = self.collection.items_of(uids[0], (TRIPLETS,))
                vector = items[0].vectors[TRIPLETS]
                assert isinstance(vector, SparseVector)
                return vector, lambda hit: hit, items
        raise self._cannot_take(part)

    def _read(self, image: ImageSource) -> SceneGraph:
        """Scene graph that the detector predicts for a picture."""
        if isinstance(self._ready(), AnnotatedGraphs):
            raise ConfigError("an index of annotations cannot read a picture: search by triplet, or build it with a detector")
        return self._detect_graphs([image])[0].strongest(top=TOP, min_score=self._facts.option("min_confidence", float))

    def _spelled_pattern(self, pattern: Pattern) -> Pattern:
        """The pattern in the spelling of the index."""
        if all(name == ANY for name in pattern):
            raise ConfigError('the triplet is empty (expected "person, riding, horse"; a * leaves one or two of them open)')
        there = self.triplets()
        roles = ("subject", "relation", "object")
        return tuple(  # type: ignore[return-value]
            name and _known_spelling(role, name, sorted({triplet_names[position] for triplet_names in there}))
            for position, (role, name) in enumerate(zip(roles, pattern, strict=True))
        )


def triplet(text: str) -> Pattern:
    """Parse ``person, riding, horse`` into a pattern; ``*`` or nothing leaves a name open.

    >>> triplet("person, riding, *")
    ('person', 'riding', '')
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3:
        raise ConfigError(f'a triplet is three names with commas between them, such as "person, riding, horse" (got {text!r})')
    subject, relation, thing = (ANY if part.lower() in OPEN else part for part in parts)
    return subject, relation, thing


def terms_of(graph: SceneGraph) -> dict[str, float]:
    """Every form of every triplet, but for the one that is all open, with the confidence of the best triplet of that form."""
    best: dict[str, float] = {}
    for names, relation in zip(graph.triplets(), graph.relations, strict=True):
        for form in product(*((name, ANY) for name in names)):
            if any(form) and relation.confidence > 0:
                term = _term(form)
                best[term] = max(best.get(term, 0.0), relation.confidence)
    return best


def stored_triplets(graph: SceneGraph) -> list[dict[str, Any]]:
    """Triplets as stored with an item, the most confident first: names, confidence, boxes in xyxy pixels."""
    rows = [
        {
            "subject": names[0],
            "relation": names[1],
            "object": names[2],
            "confidence": round(float(relation.confidence), 4),
            "subject_box": [round(float(x), 1) for x in graph.regions[relation.subject].box],
            "object_box": [round(float(x), 1) for x in graph.regions[relation.object].box],
        }
        for names, relation in zip(graph.triplets(), graph.relations, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["confidence"])


def matching_triplets(hit: Hit, pattern: Pattern) -> Hit:
    """Hit with only those of its triplets that match the pattern."""
    roles = ("subject", "relation", "object")
    rows = [
        row
        for row in hit.payload.get("triplets", ())
        if all(name in (ANY, row[role]) for role, name in zip(roles, pattern, strict=True))
    ]
    return replace(hit, payload={**hit.payload, "triplets": rows})


def _term(names: Sequence[str]) -> str:
    return json.dumps(list(names), ensure_ascii=False)


def _pattern(term: str) -> Pattern:
    subject, relation, thing = json.loads(term)
    return subject, relation, thing


def _known_spelling(role: str, name: str, spellings: Sequence[str]) -> str:
    """Spelling of a name in the index, regardless of its case."""
    same = [one for one in spellings if one.casefold() == name.casefold()]
    if not same:
        raise UnknownName(f"{role} in the triplets of this index", name, spellings)
    return name if name in same else same[0]
