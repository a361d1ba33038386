"""Relations for images with boxes and captions: those that captions mention, scored by a tagger (RLIPv2's R-Tagger).

Keeps images with at least one relation; the drop reason of the others names the stage that left none. Per image:

    captions -> triplets of phrases -> triplets of this image's labels -> ordered pairs of boxes with such labels -> scores -> threshold

Every candidate pair is scored for all predicates of its image, not only the one that made it a candidate. Pairs that a tagger
scores in one pass may attend to each other: with `asked="said"` only candidates are passed, as published. Cost: one tagger call
per image. The step needs a caption parser and a confidence threshold. Boxes and captions are never changed; existing relations
are ignored.

Columns: "tagged_relations", a list of {subject, predicate, object, confidence} for each kept image, which `tagged` applies; and
"tagging", the counts of every stage for every readable image.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from diptych.core.config import config_hash
from diptych.core.contracts import CurationStepResult, Dataset, Drop, Relater
from diptych.core.errors import ConfigError, DecodeError, ShapeError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.core.terminal.progress import with_bar
from diptych.curate.tagging.caption_triplets import CaptionParser, LabelLinker, Spans
from diptych.data.graphs.relation_splits import Relabelled

Asked = Literal["all", "said"]
TRIED = 4  # images that are tagged to estimate the cost


BELOW, UNSAID, SURER, FULL = (
    "below the threshold",
    "no caption names this pair",
    "the pair has surer ones",
    "the image has surer ones",
)
"""Why a proposed relation is not kept."""
SHOWN = 12
"""Proposals that a trace holds, the surest first; kept ones always."""


@dataclass(frozen=True, slots=True)
class StageCounts:
    """Counts by stage: captions read, triplets parsed, triplets both of whose ends are in the image, candidate pairs, relations proposed
    for these pairs, relations that are kept.
    """

    captions: int = 0
    parsed: int = 0
    linked: int = 0
    pairs: int = 0
    proposed: int = 0
    relations: int = 0

    @property
    def ended(self) -> str:
        """Reason for having no relation; "" when there is one."""
        stages = {
            "captions": "has no caption",
            "parsed": "no triplet in its captions",
            "linked": "its captions are about other things than its regions",
            "pairs": "no pair of regions has the labels of a triplet",
            "relations": "no relation is confident enough",
        }
        return next((reason for name, reason in stages.items() if not getattr(self, name)), "")


@dataclass(frozen=True, slots=True)
class TaggingTrace:
    """Trace of the stages that produced the relations of one image.

    parsed    triplets of phrases, each with the phrases that no label of the image matches
    linked    triplets of labels
    proposed  the most confident predictions of the tagger, each with the reason why it is not kept, or ""
    scored    ordered pairs that the tagger scored
    """

    captions: tuple[str, ...] = ()
    parsed: tuple[tuple[Spans, tuple[str, ...]], ...] = ()
    linked: tuple[Spans, ...] = ()
    proposed: tuple[tuple[Relation, str], ...] = ()
    scored: int = 0


@runtime_checkable
class PairRelater(Protocol):
    """Relater for selected pairs: (subject, object), indices into the regions of an image."""

    def relate_pairs(
        self,
        images: Sequence[ImageSource],
        regions: Sequence[Sequence[Region]],
        pairs: Sequence[Sequence[tuple[int, int]]],
        *,
        objects: Sequence[str],
        relations: Sequence[str],
    ) -> list[SceneGraph]: ...


@dataclass(frozen=True)
class RelationTags:
    """tagger      model that scores relations between given regions
    parse       function from captions to triplets of phrases (`caption_triplets.TemplateGrammar`, or a parser of your own)
    link        function from phrases to labels of the image
    threshold   minimum confidence of a relation (published: 0.05 stored, 0.20 trained on)
    per_pair    maximum number of relations per pair, the most confident; 0 keeps all, as published (a further released filter takes 2)
    per_image   the same per image (published 100)
    overlap     only pairs whose boxes overlap
    asked       "all": the tagger scores all pairs of labelled regions for all linked predicates; "said": only candidate pairs, once for
                each triplet that they match, for the predicates of these triplets (published)
    names       labels given to the tagger in addition to those of the image (published: all 80 of COCO, or 365)
    """

    slug: ClassVar[str] = "relation_tags"

    tagger: Relater
    parse: CaptionParser
    link: LabelLinker = field(default_factory=LabelLinker)
    threshold: float = 0.2
    per_pair: int = 0
    per_image: int = 100
    overlap: bool = False
    asked: Asked = "all"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or self.per_pair < 0 or self.per_image < 1:
            raise ConfigError(
                f"RelationTags has threshold {self.threshold}, per_pair {self.per_pair}, per_image {self.per_image} "
                "(expected 0..1, 0 or more, 1 or more)"
            )
        if self.asked not in get_args(Asked):
            raise ConfigError(f"RelationTags.asked is {self.asked!r} (expected all | said)")
        if self.asked == "said" and not isinstance(self.tagger, PairRelater):
            raise ConfigError("asked is 'said', and this tagger scores all pairs of an image (expected asked='all')")

    def plan(self, data: Dataset) -> dict[str, Any]:
        rows = list(range(0, len(data), max(1, len(data) // TRIED)))[:TRIED]
        start = time.perf_counter()
        for row in rows:
            sample = data[row]
            if sample.image is not None:
                try:
                    self.tag(sample, sample.image)
                except (DecodeError, OSError):
                    continue  # dropped with a reason when the step runs
        each = (time.perf_counter() - start) / max(1, len(rows))
        return {"items": len(data), "unit": "tagged image", "seconds_each": each, "seconds": each * len(data)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        kept: list[str] = []
        dropped: list[Drop] = []
        relations: dict[str, list[dict[str, Any]]] = {}
        counts: dict[str, dict[str, int]] = {}
        for row in with_bar(range(len(data)), len(data), "tagging relations"):
            sample = data[row]
            if reason := impossible(sample):
                dropped.append(Drop(sample.uid, self.slug, reason))
                continue
            assert sample.image is not None
            try:
                tags, tagging = self.tag(sample, sample.image)
            except (DecodeError, OSError) as error:
                dropped.append(Drop(sample.uid, self.slug, f"unreadable: {error}"))
                continue
            counts[sample.uid] = asdict(tagging)
            if tagging.ended:
                dropped.append(Drop(sample.uid, self.slug, tagging.ended))
            else:
                kept.append(sample.uid)
                relations[sample.uid] = [asdict(relation) for relation in tags]
        columns = {name: values for name, values in (("tagged_relations", relations), ("tagging", counts)) if values}
        return CurationStepResult(tuple(kept), tuple(dropped), columns, time.perf_counter() - start)

    def tag(self, sample: Sample, image: ImageSource) -> tuple[tuple[Relation, ...], StageCounts]:
        """Relations of one image, the most confident first, and the counts of its stages."""
        tags, tagging, _ = self.traced(sample, image)
        return tags, tagging

    def traced(self, sample: Sample, image: ImageSource) -> tuple[tuple[Relation, ...], StageCounts, TaggingTrace]:
        """Relations of one image with the trace of stages. Regions without a label take no part."""
        captions = tuple(text.string for text in sample.positives())
        parsed = list(dict.fromkeys(spans for caption in captions for spans in self.parse(caption)))
        meant = self._labels_of_phrases(sample, parsed)
        linked = _link_labels(parsed, meant)
        pairs = self._pairs(sample, {(subject, other) for subject, _, other in linked})
        proposed: tuple[Relation, ...] = ()
        if pairs:
            proposed = self._score_pairs(sample, image, pairs, linked)
        tags, reasons = self._confident(proposed, pairs)
        proposed_count = sum((relation.subject, relation.object) in pairs for relation in proposed)
        tagging = StageCounts(len(captions), len(parsed), len(linked), len(pairs), proposed_count, len(tags))
        nameless = tuple((spans, tuple(span for span in (spans[0], spans[2]) if not meant[span])) for spans in parsed)
        scored = len({(relation.subject, relation.object) for relation in proposed})
        return tags, tagging, TaggingTrace(captions, nameless, tuple(linked), reasons, scored)

    def _labels_of_phrases(self, sample: Sample, parsed: Sequence[Spans]) -> dict[str, tuple[str, ...]]:
        """Labels of the image that each phrase can mean."""
        labels = list(dict.fromkeys(region.label for region in sample.regions if region.label.strip()))
        return {span: self.link(span, labels) for subject, _, other in parsed for span in (subject, other)}

    def _pairs(self, sample: Sample, labels: set[tuple[str, str]]) -> set[tuple[int, int]]:
        """Ordered pairs of different regions with those labels."""
        regions = list(enumerate(sample.regions))
        return {
            (i, j)
            for i, one in regions
            for j, other in regions
            if i != j and (one.label, other.label) in labels and (not self.overlap or _boxes_intersect(one.box, other.box))
        }

    def _score_pairs(
        self, sample: Sample, image: ImageSource, pairs: set[tuple[int, int]], linked: Sequence[Spans]
    ) -> tuple[Relation, ...]:
        """Relations that the tagger proposes for pairs of labelled regions; subject and object index all regions."""
        rows = [n for n, region in enumerate(sample.regions) if region.label.strip()]
        given = [sample.regions[n] for n in rows]
        labels = list(dict.fromkeys([*self.names, *(region.label for region in given)]))
        if self.asked == "said":
            assert isinstance(self.tagger, PairRelater)
            among = {n: row for row, n in enumerate(rows)}
            fits = [
                ((among[i], among[j]), predicate)
                for i, j in sorted(pairs)
                for subject, predicate, other in linked
                if (subject, other) == (sample.regions[i].label, sample.regions[j].label)
            ]
            names = list(dict.fromkeys(predicate for _, predicate in fits))
            graphs = self.tagger.relate_pairs([image], [given], [[pair for pair, _ in fits]], objects=labels, relations=names)
        else:
            names = list(dict.fromkeys(predicate for _, predicate, _ in linked))
            graphs = self.tagger.relate([image], [given], objects=labels, relations=names, labels_known=True)
        if len(graphs) != 1 or len(graphs[0].regions) != len(given):
            raise ShapeError(f"sample '{sample.uid}': the tagger must answer with the {len(given)} regions it was given")
        return tuple(replace(r, subject=rows[r.subject], object=rows[r.object]) for r in graphs[0].relations)

    def _confident(
        self, scored: Sequence[Relation], pairs: set[tuple[int, int]]
    ) -> tuple[tuple[Relation, ...], tuple[tuple[Relation, str], ...]]:
        """Relations that are kept; and the most confident of all, each with the reason why it is not."""
        taken: dict[tuple[int, int], int] = {}
        kept: list[Relation] = []
        traced: list[tuple[Relation, str]] = []
        # by confidence, then by position and name, so that the result does not depend on the tagger's order
        for relation in sorted(scored, key=lambda r: (-r.confidence, r.subject, r.object, r.predicate)):
            pair = relation.subject, relation.object
            reason = ""
            if pair not in pairs:
                reason = UNSAID
            elif relation.confidence < self.threshold:
                reason = BELOW
            elif self.per_pair and taken.get(pair, 0) == self.per_pair:
                reason = SURER
            elif len(kept) == self.per_image:
                reason = FULL
            else:
                taken[pair] = taken.get(pair, 0) + 1
                kept.append(relation)
            if not reason or len(traced) < SHOWN:
                traced.append((relation, reason))
        return tuple(kept), tuple(traced)


def impossible(sample: Sample) -> str:
    """Reason why a sample cannot be tagged, independent of its captions; "" if it can."""
    if sample.image is None:
        return "has no image"
    if not sample.regions:
        return "has no box"
    return "" if any(region.label.strip() for region in sample.regions) else "its boxes have no labels"


def _link_labels(parsed: Sequence[Spans], meant: Mapping[str, tuple[str, ...]]) -> list[Spans]:
    """Triplets of labels that the image has."""
    triplets = ((s, predicate, o) for subject, predicate, other in parsed for s in meant[subject] for o in meant[other])
    return list(dict.fromkeys(triplets))


def tagged(data: Dataset, relations: Mapping[str, Sequence[Mapping[str, Any]]]) -> Relabelled:
    """Data set whose relations are replaced by these (column "tagged_relations"); a missing uid gets no relations."""
    made = {uid: tuple(Relation(**relation) for relation in each) for uid, each in relations.items()}
    key = {"tagged": config_hash({uid: [dict(relation) for relation in relations[uid]] for uid in sorted(relations)})}
    return Relabelled(data, _Tagged(made), key)


@dataclass(frozen=True)
class _Tagged:
    relations: Mapping[str, tuple[Relation, ...]]

    def __call__(self, sample: Sample) -> Sample:
        return replace(sample, relations=self.relations.get(sample.uid, ()))


def _boxes_intersect(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])
