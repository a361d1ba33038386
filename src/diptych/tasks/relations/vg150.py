"""Scene graph recall: PredCls, SGCls and SGDet, with and without graph constraint.  Protocols `vg150*`, version 1.

The protocol of the Visual Genome tables (Xu et al., 2017; Zellers et al., 2018; mean recall: Chen et al. and Tang et al., 2019),
for VG150 or any other vocabulary. A true relation is recalled at K if one of the first K predicted triplets of its image has the
same three names and both boxes have an IoU of at least .5. One prediction may match several truths; a truth counts once, and a
duplicate annotation counts twice in the denominator.

    r@K    fraction of true relations recalled, mean over images
    mr@K   the same per predicate, mean over its images, then mean over predicates: rare predicates weigh as much as frequent ones
    zr@K   r@K over those relations whose (subject, predicate, object) never occurs in training
    f1@K   harmonic mean of r@K and mr@K
    ng_*   no graph constraint: every predicate of every pair competes; without the prefix each ordered pair of regions keeps only
           its best predicate

PredCls gives boxes and labels, SGCls gives boxes, SGDet gives nothing; the pairs are never given. Triplets are ranked by
`Relation.confidence`, which detectors make from predicate x subject x object, or by that times both region scores ("product").

Published scorers differ as follows, reproduced by `compat="published"`: images without any predicted relation are left out
instead of counting as 0; predicates without a true relation count as recall 0 in mr; overlaps include the last pixel (width = x1
- x0 + 1); ties are broken by row. With relation NMS (PE-Net) any two near-duplicate pairs compete, a pair that keeps no predicate
is ranked by the remaining probability, and under "product" the score of the subject counts twice and that of the object not at
all. Not reproduced: they clip boxes to the image's last pixel (x1 <= W - 1), by up to one pixel. Recall over given pairs ("A@K")
is a different task, recognisable by r@50 = r@100.

Letters: N images, R true relations, M numbers per relation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector, Relater
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.intervals import Floats, Ints, percentiles, resampled_class_means, resampled_means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.relations import given_regions, graph_records
from diptych.tasks.relations import triplet_matching as tm
from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.graph_records import nms_ran
from diptych.tasks.relations.predicate_nms import predicate_nms_by_pair
from diptych.tasks.relations.triplet_names import query_names, seen_triplets, truth_and_prediction, vocabulary_of, with_unseen

IOU = 0.5


@dataclass(frozen=True, slots=True)
class VG150:
    """Scene-graph detection: neither boxes nor labels are given (SGDet).

    vocabulary    "vg150", "open-images", ... ; "" uses the names in the data
    ks            numbers of triplets per image; (5,) suits worlds with a few relations
    train         data whose triplets count as seen, for zr@K
    seen          or a JSON file of them: a list of [subject, predicate, object]
    ranking       order of triplets: "confidence" of the detector, or its "product" with both region scores
    relation_nms  near-duplicate pairs may not have the same predicate under the graph constraint, as in PE-Net's evaluation
    ties          credit of tied triplets: expected | pessimistic | optimistic | index
    compat        "published" reproduces the differences of released scorers (docs: relation protocols)
    """

    name: ClassVar[str] = "vg150"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Detector
    main: ClassVar[str] = "r@50"
    setting: ClassVar[str] = "SGDet"

    vocabulary: str = ""
    ks: tuple[int, ...] = (20, 50, 100)
    train: Any = field(default=None, compare=False, repr=False)
    seen: str = ""
    ranking: Literal["confidence", "product"] = "confidence"
    relation_nms: bool = False
    ties: rk.Ties = "expected"
    compat: tm.Compat = ""
    draws: int = 500
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks is {self.ks} (expected whole numbers from 1)")
        if self.ranking not in ("confidence", "product"):
            raise ConfigError(f"ranking is {self.ranking!r} (expected confidence | product)")
        if self.compat not in ("", "published"):
            raise ConfigError(f"compat is {self.compat!r} (expected published, or nothing)")

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """One row an image: its true graph, the predicted one and, where training triplets are known, which truths are unseen."""
        objects, relations = query_names(self.vocabulary, [data] if self.train is None else [data, self.train])
        table = self._ask(model, data, objects, relations)
        seen = seen_triplets(self.seen or self.train)
        if seen is not None:
            table = with_unseen(table, seen)
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "train"}
        return with_facts(table, options=options, triplets_seen=None if seen is None else len(seen))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers. Each draw resamples groups of images."""
        truth, predicted = truth_and_prediction(records)
        if not len(truth.predicate):
            raise DataError("there is nothing to score: no image has a true relation", field="relations")
        every, one_a_pair, mute_R = self._orders(predicted)
        objects, predicates = vocabulary_of(records)
        t, p = self._pairs(truth, predicted, len(objects), len(predicates))
        orders = {"": (one_a_pair, (t[~mute_R[p]], p[~mute_R[p]])), "ng_": (every, (t, p))}
        hits, share_tied = self._hits(orders, len(truth.predicate), len(predicted.predicate))
        metrics, by_predicate = self._metrics(truth, predicted, hits, records)
        notes = {
            **facts_of(records),
            "scorer": f"VG150 {self.setting}, recall" + (" (published habits)" if self.compat else ""),
            "ap_rule": "none: recall of the first K triplets of an image",
            "iou": f"both boxes >= {IOU}, " + ("inclusive (last pixel counted in)" if self.compat else "half_open"),
            "relation_nms": nms_ran(facts_of(records), "PE-Net's, before ranking" if self.relation_nms else "none"),
            "graph_constraint": "one predicate an ordered pair; ng_: none",
            "ranking": self.ranking,
            "ties": self._ties,
            "share_tied": share_tied,
            "ceiling": self._ceilings(truth),
            "images_without_prediction": int((np.diff(predicted.relation_start)[np.diff(truth.relation_start) > 0] == 0).sum()),
            "by_predicate": {predicates[p]: value for p, value in by_predicate.items()},
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        images = np.unique(truth.image_of_relation)
        main = self.main if self.main in metrics else f"r@{max(self.ks)}"
        groups = len({truth.groups[n] for n in images})
        return Result(self.name, self.version, main, metrics, len(images), groups, notes=notes)

    @property
    def _ties(self) -> rk.Ties:
        return "index" if self.compat else self.ties

    # ------------------------------------------------------------ prediction

    def _ask(self, model: Any, data: Dataset, objects: Sequence[str], relations: Sequence[str]) -> pa.Table:
        return graph_records.predict(model, data, objects, relations, batch_size=self.batch_size)

    # ------------------------------------------------------------ scoring

    def _orders(self, predicted: GraphArrays) -> tuple[tm.RankedRelations, tm.RankedRelations, tm.Bools]:
        """All relations, best first; those kept by the graph constraint; and a mask of those that mean "no relation" and match
        nothing."""
        score, weight = predicted.confidence, np.ones(len(predicted.confidence))
        mute_R = np.zeros(len(score), bool)
        if self.ranking == "product":
            weight = predicted.score[predicted.subject] * predicted.score[predicted.object]
        every = tm.RankedRelations.of(predicted.image_of_relation, score * weight)
        pair = predicted.subject[every.row] * max(len(predicted.box), 1) + predicted.object[every.row]
        if not self.relation_nms:
            return every, every.keep(tm.first_of_each(pair), predicted.image_of_relation, score * weight), mute_R
        done = predicate_nms_by_pair(predicted, inclusive=bool(self.compat), released=bool(self.compat))
        left = done.stays
        if self.compat:
            mute_R, left = done.closed, done.stays | done.closed
            score = np.where(mute_R, done.nothing, score)
            if self.ranking == "product":
                weight = predicted.score[predicted.subject] ** 2
        return every, tm.RankedRelations.of(predicted.image_of_relation, score * weight, np.flatnonzero(left)), mute_R

    def _pairs(self, truth: GraphArrays, predicted: GraphArrays, objects: int, predicates: int) -> tuple[Ints, Ints]:
        """Matching pairs (true row, predicted row): names equal, both boxes overlap."""
        t, p = tm.equal_pairs(tm.triplet_codes(truth, objects, predicates), tm.triplet_codes(predicted, objects, predicates))
        fits = tm.triplet_overlaps(truth, predicted, t, p, inclusive=bool(self.compat)) >= IOU
        return t[fits], p[fits]

    def _hits(
        self, orders: dict[str, tuple[tm.RankedRelations, tuple[Ints, Ints]]], truths: int, relations: int
    ) -> tuple[dict[str, Floats], float]:
        """Credit of every true relation for each constraint and K, and the fraction of relations that a tie decides."""
        hits: dict[str, Floats] = {}
        touched = np.zeros(truths, bool)
        for prefix, (order, pairs) in orders.items():
            first = tm.first_matches(*pairs, order, truths, relations)
            for k in self.ks:
                hits[f"{prefix}{k}"] = rk.hits(first.above, first.tied, first.tied_relevant, k, self._ties, first.by_index)
                touched |= (first.above < k) & (k - first.above <= first.tied - first.tied_relevant)
        return hits, float(touched.mean())

    def _ceilings(self, truth: GraphArrays) -> dict[str, float]:
        """Upper bound of r@K, for a perfect ranking: the graph constraint keeps only one of two true predicates of a pair, and at
        most K true triplets can be recalled. (Near-duplicate boxes, which one prediction may match together, are ignored.)
        """
        pair = truth.subject * max(len(truth.box), 1) + truth.object
        triplet, first, written = np.unique(
            np.stack([pair, truth.predicate], axis=1), axis=0, return_index=True, return_counts=True
        )
        pairs, inverse = np.unique(triplet[:, 0], return_inverse=True)
        best = np.zeros(len(pairs), np.int64)
        np.maximum.at(best, inverse, written)
        image_of_pair = np.zeros(len(pairs), np.int64)
        image_of_pair[inverse] = truth.image_of_relation[first]
        images, counts = np.unique(truth.image_of_relation, return_counts=True)
        reached = {}
        for prefix, image, worth in (("", image_of_pair, best), ("ng_", truth.image_of_relation[first], written)):
            order = np.lexsort((-worth, image))
            start = np.searchsorted(image[order], images)
            rank = np.arange(len(order)) - start[np.searchsorted(images, image[order])]
            for k in self.ks:
                kept = np.bincount(np.searchsorted(images, image[order]), worth[order] * (rank < k), minlength=len(images))
                reached[f"{prefix}r@{k}"] = float((kept / counts).mean())
        return reached

    def _metrics(
        self, truth: GraphArrays, predicted: GraphArrays, hits: dict[str, Floats], records: pa.Table
    ) -> tuple[dict[str, Metric], dict[int, float]]:
        image, predicate = truth.image_of_relation, truth.predicate
        counted = np.ones(len(image), bool)
        if self.compat:
            counted = np.diff(predicted.relation_start)[image] > 0
        value_RM = np.stack(list(hits.values()), axis=1)
        classes = len(vocabulary_of(records)[1])
        r = self._mean_of_images(truth, image[counted], value_RM[counted])
        mr, by_predicate = self._mean_of_predicates(truth, image[counted], predicate[counted], value_RM[counted], classes)
        parts = {"r": r, "mr": mr}
        if "truth_unseen" in records.column_names:
            unseen = records.column("truth_unseen").combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(bool)
            parts["zr"] = self._mean_of_images(truth, image[counted & unseen], value_RM[counted & unseen])
        parts["f1"] = _harmonic(r[0], mr[0]), _harmonic(r[1], mr[1])
        metrics = {}
        for column, name in enumerate(hits):
            prefix, k = ("ng_", name[3:]) if name.startswith("ng_") else ("", name)
            for kind, (value_M, drawn_DM) in parts.items():
                span = percentiles(drawn_DM[:, column]) if self.draws else ()
                metrics[f"{prefix}{kind}@{k}"] = Metric(float(value_M[column]), *span)
        return metrics, by_predicate

    def _mean_of_images(self, truth: GraphArrays, image: Ints, value_RM: Floats) -> tuple[Floats, Floats]:
        """[M] and, for every draw, [D, M]; NaN where no image is left."""
        images, value_NM = _means(image, value_RM)
        if not len(images):
            return np.full(value_RM.shape[1], np.nan), np.full((self.draws, value_RM.shape[1]), np.nan)
        drawn = np.zeros((0, value_RM.shape[1]))
        if self.draws:
            drawn = resampled_means(value_NM, [truth.groups[n] for n in images], draws=self.draws, seed=self.seed)
        return value_NM.mean(axis=0), drawn

    def _mean_of_predicates(
        self, truth: GraphArrays, image: Ints, predicate: Ints, value_RM: Floats, classes: int
    ) -> tuple[tuple[Floats, Floats], dict[int, float]]:
        """As above, over predicates; and the recall of each predicate at the largest K under the graph constraint."""
        if not len(image):  # no image has a prediction: the released scorer counts every predicate 0
            nothing = 0.0 if self.compat else np.nan
            return (np.full(value_RM.shape[1], nothing), np.full((self.draws, value_RM.shape[1]), np.nan)), {}
        key, value_NM = _means(image * classes + predicate, value_RM)
        kinds, each_KM = _means(key % classes, value_NM)
        scale = len(kinds) / classes if self.compat else 1.0
        drawn = np.zeros((0, value_RM.shape[1]))
        if self.draws:
            groups = [truth.groups[n] for n in key // classes]
            columns = [
                resampled_class_means(value_N, key % classes, groups, draws=self.draws, seed=self.seed) for value_N in value_NM.T
            ]
            drawn = np.stack(columns, axis=1) * scale
        largest = int(np.argmax(self.ks))
        by_predicate = {int(k): float(v) for k, v in zip(kinds, each_KM[:, largest], strict=True)}
        return (each_KM.mean(axis=0) * scale, drawn), by_predicate


@dataclass(frozen=True, slots=True)
class VG150SGCls(VG150):
    """Scene-graph classification: boxes are given, labels and relations are not (SGCls). Fields as in `VG150`."""

    name: ClassVar[str] = "vg150_sgcls"
    needs: ClassVar[type] = Relater
    setting: ClassVar[str] = "SGCls"

    def _ask(self, model: Any, data: Dataset, objects: Sequence[str], relations: Sequence[str]) -> pa.Table:
        return given_regions.predict(model, data, objects, relations, labels_known=False, batch_size=self.batch_size)


@dataclass(frozen=True, slots=True)
class VG150PredCls(VG150):
    """Predicate classification: boxes and labels are given, relations are not (PredCls). Fields as in `VG150`."""

    name: ClassVar[str] = "vg150_predcls"
    needs: ClassVar[type] = Relater
    setting: ClassVar[str] = "PredCls"

    def _ask(self, model: Any, data: Dataset, objects: Sequence[str], relations: Sequence[str]) -> pa.Table:
        return given_regions.predict(model, data, objects, relations, labels_known=True, batch_size=self.batch_size)


def _means(key_R: Ints, value_RM: Floats) -> tuple[Ints, Floats]:
    """The distinct keys, and the mean of their rows."""
    keys, inverse = np.unique(key_R, return_inverse=True)
    size = np.bincount(inverse, minlength=len(keys))
    total = [np.bincount(inverse, column, minlength=len(keys)) for column in value_RM.T]
    return keys, np.stack(total, axis=1) / size[:, None]


def _harmonic(one: Floats, other: Floats) -> Floats:
    both = one + other
    return np.divide(2 * one * other, both, out=np.where(np.isnan(both), np.nan, 0.0), where=both > 0)
