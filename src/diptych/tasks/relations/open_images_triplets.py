"""Open Images V6 relations with one AP a whole triplet, as RLIPv2 scores them; see `open_images_relations` for both protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diptych.core.box_iou import aligned_box_iou
from diptych.core.errors import ConfigError
from diptych.core.triplet_rule import TripletRule
from diptych.tasks._scoring.detection.average_precision import Rule, first_claims
from diptych.tasks._scoring.intervals import Floats, Ints, codes
from diptych.tasks.relations import triplet_matching as tm
from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.graph_records import Rules
from diptych.tasks.relations.open_images_relations import KEPT, RECALLED, OpenImagesPredicates, RelationMatches, claims
from diptych.tasks.relations.relation_nms import relation_nms
from diptych.tasks.relations.triplet_matching import Bools

NMS_TRIPLETS, NMS_PHRASES = 0.7, 0.5


@dataclass(frozen=True, slots=True)
class OpenImagesTriplets(OpenImagesPredicates):
    """The same numbers with one AP a whole triplet, as RLIPv2 scores them. Fields as in `OpenImagesPredicates`, and:

    nms       remove near-duplicates of equal names: triplets whose boxes overlap by more than .7, then phrases by more than .5
    triplets  published: relation x subject x object, boxes unchanged, if the detector supports it | detector: by its own `detect`
    """

    name: ClassVar[str] = "open_images_triplets"
    version: ClassVar[int] = 2

    nms: bool = True
    triplets: Rules = "published"

    def __post_init__(self) -> None:
        OpenImagesPredicates.__post_init__(self)
        if self.triplets not in ("published", "detector"):
            raise ConfigError(f"triplets is {self.triplets!r} (expected published | detector)")

    @property
    def _rule_of_triplets(self) -> TripletRule | None:
        return TripletRule("scored", top=KEPT) if self.triplets == "published" else None

    @property
    def _rules(self) -> dict[str, str]:
        return {
            "scorer": "Open Images V6 relations, AP per triplet",
            "ap_rule": "11-point",
            "iou": "rel: both boxes >= 0.5, phr: enclosing box >= 0.5",
            "relation_nms": f"triplets {NMS_TRIPLETS}, then phrases {NMS_PHRASES}" if self.nms else "none",
            "places": f"every predicate of every pair, {KEPT} triplets an image, {RECALLED} for recall",
        }

    @property
    def _rule(self) -> Rule:
        return "11-point"

    @property
    def _absent_count(self) -> bool:
        return False

    def _judge(self, truth: GraphArrays, predicted: GraphArrays, objects: int, predicates: int) -> RelationMatches:
        score = predicted.confidence
        true_names, names = tm.triplet_codes(truth, objects, predicates), tm.triplet_codes(predicted, objects, predicates)
        kinds, truth_kind = np.unique(true_names % (objects * predicates * objects), return_inverse=True)
        kind = np.searchsorted(kinds, names % (objects * predicates * objects))
        has_class = kinds[np.minimum(kind, len(kinds) - 1)] == names % (objects * predicates * objects)
        if self.compat:
            has_class &= np.diff(truth.box_start)[predicted.image_of_relation] > 0
        order = tm.RankedRelations.of(predicted.image_of_relation, score)
        judged = has_class[order.row] | bool(self.compat)  # classes are independent, except in the published scorer
        rows = self._kept_rows(predicted, names, order.row[judged & (order.rank <= KEPT)])
        few = self._kept_rows(predicted, names, order.row[judged & (order.rank <= RECALLED)])
        t, p = tm.equal_pairs(true_names, names)
        both = tm.triplet_overlaps(truth, predicted, t, p, inclusive=bool(self.compat), touching=not self.compat)
        phrase = tm.phrase_overlaps(truth, predicted, t, p, inclusive=bool(self.compat), touching=not self.compat)
        hit = claims(t, p, both, (both >= 0.5) & _among(rows, len(score))[p], score)
        found_rows = _truths_pointed_at(t, p, both, (both >= 0.5) & _among(few, len(score))[p])
        recalled = np.zeros(len(truth.predicate))
        recalled[found_rows] = 1.0
        phrase_rows, judged_by = self._phrases(predicted, names, rows)
        phrase_hit = claims(t, p, phrase, (phrase >= 0.5) & _among(phrase_rows, len(score))[p], score)
        if judged_by is not phrase_rows:
            phrase_hit = _hits_by_other_entry(t, p, phrase, phrase_rows, judged_by, score, has_class)
        group_N, groups = codes(truth.groups)
        curves = []
        for right, some in ((hit, rows), (phrase_hit, phrase_rows)):
            some = some[has_class[some]]
            group = group_N[predicted.image_of_relation[some]]
            curves.append(self._curves(truth, right[some], score[some], kind[some], group, len(kinds), truth_kind))
        return RelationMatches(curves[0], curves[1], recalled, group_N[truth.image_of_relation], groups)

    def _kept_rows(self, predicted: GraphArrays, names: Ints, rows: Ints) -> Ints:
        """Rows left by triplet NMS."""
        if not self.nms:
            return rows
        return relation_nms(predicted, rows, names[rows], NMS_TRIPLETS, inclusive=bool(self.compat))

    def _phrases(self, predicted: GraphArrays, names: Ints, rows: Ints) -> tuple[Ints, Ints]:
        """Rows kept by phrase NMS, and the rows whose boxes are scored for them: the same, except in the published scorer."""
        if not self.nms:
            return rows, rows
        image, score, inclusive = predicted.image_of_relation, predicted.confidence, bool(self.compat)
        rows = rows[np.lexsort((-score[rows], image[rows]))]
        box = tm.enclosing(predicted.box[predicted.subject[rows]], predicted.box[predicted.object[rows]])
        rows = rows[tm.greedy_nms(names[rows], lambda i, j: aligned_box_iou(box[i], box[j], inclusive=inclusive), NMS_PHRASES)]
        if not self.compat:
            return rows, rows
        first = np.unique(names[rows], return_index=True)
        appears = first[1][np.searchsorted(first[0], names[rows])]
        listed = rows[np.lexsort((appears, image[rows]))]  # class by class, as NMS left them
        return listed[np.lexsort((-score[listed], image[listed]))], listed


def _truths_pointed_at(t: Ints, p: Ints, share_M: Floats, fits_M: Bools) -> Ints:
    """Truths that are the best match of any prediction."""
    t, p = t[fits_M], p[fits_M]
    return np.unique(t[tm.best_truths(t, p, share_M[fits_M])])


def _hits_by_other_entry(
    t: Ints, p: Ints, share_M: Floats, rows: Ints, judged_by: Ints, score_R: Floats, known_R: Bools
) -> Bools:
    """Like `claims`, but each of `rows` is scored with the box and names of its entry in `judged_by`. A phrase whose own class
    has no truth matches nothing: the released scorer skips it before it marks a truth as taken."""
    fits = (share_M >= 0.5) & _among(judged_by, len(score_R))[p]
    points_at = np.full(len(score_R), -1, np.int64)
    best = tm.best_truths(t[fits], p[fits], share_M[fits])
    points_at[p[fits][best]] = t[fits][best]
    claimed = np.full(len(score_R), -1, np.int64)
    claimed[rows] = points_at[judged_by]
    claimed[~known_R] = -1
    return first_claims(claimed, score_R)


def _among(rows: Ints, count: int) -> Bools:
    there = np.zeros(count, bool)
    there[rows] = True
    return there
