"""Open Images V6 relation detection under the two protocols that share its name: `open_images_predicates` 1 and
`open_images_triplets` 2.

    score_wtd = .2 R@50 + .4 wmAP_rel + .4 wmAP_phr

R@50 is the fraction of all true relations of the data set that are among the 50 best triplets of their images. `rel` requires
both subject and object to overlap; `phr` compares the box around both. wmAP weights the classes by their true relations, mAP does
not. The two protocols share only these definitions; their results are not comparable and must not be mixed in one table.

|                    | open_images_predicates                          | open_images_triplets                          |
|--------------------|-------------------------------------------------|-----------------------------------------------|
| used by            | BGNN, SGTR, PE-Net (Li et al., 2021)            | RLIPv2 (Yuan et al., 2023)                    |
| a class of AP      | a predicate; names of both ends must be right   | a whole (subject, predicate, object)          |
| AP                 | area under the falling envelope                 | 11-point                                      |
| an overlap counts  | above .5                                        | from .5                                       |
| what competes      | 2 best predicates of a pair, 100 an image       | every predicate of every pair, 100 an image   |
| relation NMS       | none                                            | triplets .7, then phrases .5                  |
| a found relation   | a prediction may answer several                 | a prediction answers the one it overlaps most |

In both, a prediction is matched to the true relation that it overlaps most, and is wrong if a better-scored one already took it.

`compat="published"` reproduces the released scorers. Both: overlaps include the last pixel (width = x1 - x0 + 1), ties are broken
by row. Predicates: a predicate without a true relation counts as AP 0 in mAP. Triplets: false positives in images without
any true box are dropped; a box without area overlaps nothing; a recall of exactly .3 misses its threshold; after NMS, phrases
are sorted by score while their overlaps are not, so a phrase is scored with the box of another one, and phrases of classes
without a true relation are skipped before they can take a truth.
Tied triplets fill the top 100 (or 50) of an image in row order.

Letters: R relations, D draws, C groups, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.triplet_rule import TripletRule
from diptych.tasks._scoring.detection.average_precision import PrecisionRecallCurves, Rule, first_claims
from diptych.tasks._scoring.intervals import Floats, Ints, codes, group_weights, percentiles
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.relations import graph_records
from diptych.tasks.relations import triplet_matching as tm
from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.triplet_matching import Bools
from diptych.tasks.relations.triplet_names import query_names, truth_and_prediction, vocabulary_of

KEPT, RECALLED = 100, 50  # triplets an image, for AP and for recall
LEAST = 1e-5  # predictions with scores up to this are ignored (predicates protocol)
WEIGHTS = {"r@50": 0.2, "wmap_rel": 0.4, "wmap_phr": 0.4}


@dataclass(frozen=True, slots=True)
class OpenImagesPredicates:
    """R@50, wmAP of relations and of phrases, one AP a predicate, and their weighted sum (the protocol of most scene-graph papers).

    vocabulary  "open-images" for its 30 predicates (objects come from the data), "vg150", ...; "" uses the names of the data
    ranking     order of triplets: "confidence" of the detector, or its "product" with both region scores
    compat      "published" reproduces the differences of the released scorer (docs: relation protocols)
    """

    name: ClassVar[str] = "open_images_predicates"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Detector
    main: ClassVar[str] = "score_wtd"

    vocabulary: str = ""
    ranking: Literal["confidence", "product"] = "confidence"
    compat: tm.Compat = ""
    draws: int = 500
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.ranking not in ("confidence", "product"):
            raise ConfigError(f"ranking is {self.ranking!r} (expected confidence | product)")
        if self.compat not in ("", "published"):
            raise ConfigError(f"compat is {self.compat!r} (expected published, or nothing)")

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row per image: its true graph and the predicted one."""
        objects, relations = query_names(self.vocabulary, [data])
        table = graph_records.predict(model, data, objects, relations, rule=self._rule_of_triplets, batch_size=self.batch_size)
        return with_facts(table, options={f.name: getattr(self, f.name) for f in fields(self)})

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers. Each draw resamples groups of images."""
        truth, predicted = truth_and_prediction(records)
        if not len(truth.predicate):
            raise DataError("there is nothing to score: no image has a true relation", field="relations")
        objects, predicates = (len(names) for names in vocabulary_of(records))
        if self.ranking == "product":
            predicted = replace(
                predicted,
                confidence=predicted.confidence * predicted.score[predicted.subject] * predicted.score[predicted.object],
            )
        judged = self._judge(truth, predicted, objects, predicates)
        metrics = self._metrics(truth, judged)
        used = np.unique(truth.image_of_relation)
        notes = {
            **facts_of(records),
            **self._rules,
            "relation_nms": graph_records.nms_ran(facts_of(records), self._rules["relation_nms"]),
            "iou": f"{self._rules['iou']}, " + ("inclusive (last pixel counted in)" if self.compat else "half_open"),
            "scorer": self._rules["scorer"] + (" (published habits)" if self.compat else ""),
            "ties": "index" if self.compat else "equal scores of a class enter its curve together; places in an image by row",
            "share_tied": judged.relations.share_tied,
            "score_wtd": " + ".join(f"{weight} {name}" for name, weight in WEIGHTS.items()),
            "classes": int((judged.positives.sum(axis=0) > 0).sum()),
            "ranking": self.ranking,
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(
            self.name, self.version, self.main, metrics, len(records), len({truth.groups[n] for n in used}), notes=notes
        )

    # ------------------------------------------------------------ protocol

    @property
    def _rule_of_triplets(self) -> TripletRule | None:
        """Triplet rule for a detector that supports one; None uses its own `detect`."""
        return None

    @property
    def _rules(self) -> dict[str, str]:
        return {
            "scorer": "Open Images V6 relations, AP per predicate",
            "ap_rule": "area",
            "iou": "rel: both boxes > 0.5, phr: enclosing box > 0.5, recall: both >= 0.5",
            "relation_nms": "none",
            "places": f"2 predicates a pair, {KEPT} triplets an image with score > {LEAST}",
        }

    @property
    def _rule(self) -> Rule:
        return "area"

    def _judge(self, truth: GraphArrays, predicted: GraphArrays, objects: int, predicates: int) -> RelationMatches:
        score = predicted.confidence
        inclusive = bool(self.compat)
        order = tm.RankedRelations.of(predicted.image_of_relation, score)
        pair = predicted.subject[order.row] * max(len(predicted.box), 1) + predicted.object[order.row]
        order = order.keep(tm.first_of_each(pair, 2) & (score[order.row] > LEAST), predicted.image_of_relation, score)
        kept = np.zeros(len(score), bool)
        kept[order.row[order.rank <= KEPT]] = True
        t, p = tm.equal_pairs(tm.triplet_codes(truth, objects, predicates), tm.triplet_codes(predicted, objects, predicates))
        both = tm.triplet_overlaps(truth, predicted, t, p, inclusive=inclusive)
        phrase = tm.phrase_overlaps(truth, predicted, t, p, inclusive=inclusive)
        fits = both >= 0.5
        first = tm.first_matches(t[fits], p[fits], order, len(truth.predicate), len(score))
        ties: rk.Ties = "index" if self.compat else "expected"
        recalled = rk.hits(first.above, first.tied, first.tied_relevant, RECALLED, ties, first.by_index)
        hits = [claims(t, p, share, (share > 0.5) & kept[p], score) for share in (both, phrase)]
        rows = np.flatnonzero(kept)
        group_N, groups = codes(truth.groups)
        relations, phrases = (
            self._curves(
                truth, hit[rows], score[rows], predicted.predicate[rows], group_N[predicted.image_of_relation[rows]], predicates
            )
            for hit in hits
        )
        return RelationMatches(relations, phrases, recalled, group_N[truth.image_of_relation], groups)

    def _curves(
        self, truth: GraphArrays, hit: Bools, score: Floats, kind: Ints, group: Ints, classes: int, truth_kind: Ints | None = None
    ) -> PrecisionRecallCurves:
        group_N, groups = codes(truth.groups)
        return PrecisionRecallCurves.of(
            hit,
            score,
            kind,
            group,
            truth_class=truth.predicate if truth_kind is None else truth_kind,
            truth_group=group_N[truth.image_of_relation],
            classes=classes,
            groups=groups,
            ties="index" if self.compat else "together",
        )

    # ------------------------------------------------------------ metrics

    def _metrics(self, truth: GraphArrays, judged: RelationMatches) -> dict[str, Metric]:
        value = self._numbers(judged, None)
        drawn: dict[str, list[Floats]] = {name: [] for name in value}
        points = max(int(curves.bounds[-1]) for curves in (judged.relations, judged.phrases))
        width = max(judged.groups, points * 11, judged.positives.shape[1])
        if self.draws and judged.groups > 1:
            for weight_DC in group_weights(judged.groups, self.draws, self.seed, width):
                for name, value_D in self._numbers(judged, weight_DC).items():
                    drawn[name].append(value_D)
        spans = {name: percentiles(np.concatenate(each)) if each else () for name, each in drawn.items()}
        return {name: Metric(float(value[name][0]), *spans[name]) for name in value}

    def _numbers(self, judged: RelationMatches, weight_DC: Floats | None) -> dict[str, Floats]:
        """Metrics by draw, [D] each."""
        positive_DK, found_D, total_D = judged.weighted(weight_DC)
        numbers = {"score_wtd": np.zeros(len(total_D)), "r@50": _share(found_D, total_D)}
        for short, curves in (("rel", judged.relations), ("phr", judged.phrases)):
            ap_DK = curves.average_precision(self._rule, weight_DC=weight_DC, float_recall=bool(self.compat))
            there_DK = positive_DK > 0
            ap_DK = np.where(there_DK, ap_DK, 0.0)
            numbers[f"wmap_{short}"] = _share((ap_DK * positive_DK).sum(axis=1), positive_DK.sum(axis=1))
            classes_D = there_DK.sum(axis=1) if not self._absent_count else np.full(len(ap_DK), ap_DK.shape[1])
            numbers[f"map_{short}"] = _share(ap_DK.sum(axis=1), classes_D)
        numbers["score_wtd"] = sum((weight * numbers[name] for name, weight in WEIGHTS.items()), numbers["score_wtd"])
        return numbers

    @property
    def _absent_count(self) -> bool:
        """True if classes without a true relation count as AP 0 in mAP."""
        return bool(self.compat)


@dataclass(frozen=True, slots=True)
class RelationMatches:
    """Matching results: curves of relations and of phrases, and for each true relation its recall in the top 50 and its group."""

    relations: PrecisionRecallCurves
    phrases: PrecisionRecallCurves
    recalled: Floats
    group: Ints
    groups: int

    @property
    def positives(self) -> Any:
        return self.relations.positives_CK

    def weighted(self, weight_DC: Floats | None) -> tuple[Floats, Floats, Floats]:
        """True relations per class [D, K], recalled ones [D], all [D]."""
        weight_DC = np.ones((1, self.groups)) if weight_DC is None else weight_DC
        positive_DK = np.asarray((self.positives.T @ weight_DC.T).T)
        found_C = np.bincount(self.group, self.recalled, minlength=self.groups)
        return positive_DK, weight_DC @ found_C, positive_DK.sum(axis=1)


def claims(t: Ints, p: Ints, share_M: Floats, fits_M: Bools, score_R: Floats) -> Bools:
    """Mask [R] of true positives: predictions that are the best-scored one for the truth that they overlap most."""
    claimed = np.full(len(score_R), -1, np.int64)
    t, p = t[fits_M], p[fits_M]
    best = tm.best_truths(t, p, share_M[fits_M])
    claimed[p[best]] = t[best]
    return first_claims(claimed, score_R)


def _share(part_D: Floats, whole_D: Floats | Ints) -> Floats:
    share: Floats = np.divide(part_D, whole_D, out=np.full(len(part_D), np.nan), where=whole_D > 0)
    return share
