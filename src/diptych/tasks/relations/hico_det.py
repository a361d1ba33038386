"""HICO-DET: mean average precision over (person, verb, object) classes.  Protocol `hico_det`, version 2 (Chao et al., 2018).

A predicted triplet is matched to the true pair of its class in its image with the largest min(IoU of subjects, IoU of objects).
It is correct if that is .5 or more and no better-scored prediction took the pair before; a second prediction for a taken pair is
wrong, even if another pair would fit. AP is the 11-point rule, boxes include both edge pixels, and each image contributes its 100
best triplets among the known combinations of verb and object.

The triplet rule is part of a published number (RLIPv2, Yuan et al., 2023; QPIC before it): the score is relation x object, every
subject is a person, combinations that are not classes are masked before the cut at 100, and boxes are unchanged. A detector that
supports a triplet rule is given this one; `triplets="detector"` uses its own `detect`, and the notes say which was used. Without
fine-tuning (`zero_shot="nf"`), pairs whose likeliest subject is not a person are dropped first. Version 1 always used `detect`.

Default setting: every class is scored on all images. Known-object setting: a class is scored only on images that show a relation
with its object, so false alarms elsewhere do not count. One result has both. The objects that an image shows are given by HICO's
image-level labels, as in the official scorer, if the data have them (a column `labelled_objects`), else by its annotated
relations.

Full, Rare and Non-Rare are means over classes; Rare has fewer than 10 training instances, counted on the *whole* training set also
when a model saw a part of it. In the zero-shot settings the classes are Unseen or Seen: UC-RF and UC-NF (120 unseen combinations,
rare first or frequent first), UO (the 100 classes of 12 unseen objects), NF (no fine-tuning: the plain table).

Where others differ: scorers that descend from PPDM's leave out classes without test instances (so do we; the MATLAB scorer counts
them as 0), and those of QPIC and RLIPv2 lose every false positive in images without any true box, and say that
boxes without area overlap nothing, though both edge pixels count; recall .3 of an exact 3 in 10
misses its threshold in floating point; re-writes with a strict > .5 lose boxes that overlap by exactly half. `compat` reproduces
each by name. Relation NMS (CDN) is off by default and recorded in the notes: results with and without it are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.triplet_rule import TripletRule
from diptych.data.graphs.columns import GraphColumns, extras_of
from diptych.data.graphs.formats.hico_det_labels import LABELLED
from diptych.data.vocabularies import PERSON, vocabulary
from diptych.tasks._scoring.detection.average_precision import (
    PrecisionRecallCurves,
    Rule,
    Ties,
    best_first,
    by_class,
    first_claims,
    mean_average_precision,
)
from diptych.tasks._scoring.intervals import codes
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.relations.graph_arrays import PREFIX, GraphArrays, names_in
from diptych.tasks.relations.graph_records import Convention, Rules, nms_ran, predict
from diptych.tasks.relations.hico_det_splits import Triplet, unseen, unseen_by_count
from diptych.tasks.relations.hico_det_triplets import ClassTriplets, claims
from diptych.tasks.relations.relation_nms import nms_description, relation_nms
from diptych.tasks.relations.triplet_matching import Bools, Floats, Ints, first_of_each

Compat = Literal["", "matlab", "qpic", "strict"]
ZeroShotSetting = Literal["", "uc_rf", "uc_nf", "uo", "nf"]
RARE_BELOW = 10
FLOAT_RECALL = ("matlab", "qpic")
SIDES: tuple[Literal["truth"], Literal["prediction"]] = ("truth", "prediction")


@dataclass(frozen=True, slots=True)
class HicoDet:
    """mAP on HICO-DET: Full, Rare, Non-Rare, with the object unknown (default) and known (ko_...).

    vocabulary  "hico-det": the 600 published classes; "data": the triplets in the ground truth of your own data
    zero_shot   also report Unseen and Seen: uc_rf | uc_nf | uo; nf changes only the notes
    unseen      indices of the unseen classes, instead of the published list
    train       the whole training set, for Rare with your own vocabulary (and unseen combinations by the published rule); the published
                classes have a published list, so a part of the training set is enough for them
    top         maximum number of triplets per image, the best ones; 0 uses all
    nms         relation NMS: a triplet is removed if IoU_s x IoU_o ** .5 with a better one of its class is above this; 0 is off
    ap          11-point | area (under the envelope)
    iou         inclusive (both edge pixels count, "+1") | half_open
    ties        rule for equal scores: together (no order) | index (earlier row first, as published)
    compat      differences of released scorers: matlab | qpic | strict
    triplets    published: by the rule above, if the detector supports it | detector: by its own `detect`
    """

    name: ClassVar[str] = "hico_det"
    version: ClassVar[int] = 2
    needs: ClassVar[type] = Detector
    main: ClassVar[str] = "full"

    vocabulary: Literal["hico-det", "data"] = "hico-det"
    zero_shot: ZeroShotSetting = ""
    unseen: tuple[int, ...] = ()
    train: Any = field(default=None, compare=False, repr=False)
    top: int = 100
    nms: float = 0.0
    ap: Rule = "11-point"
    iou: Convention = "inclusive"
    ties: Ties = "together"
    compat: Compat = ""
    triplets: Rules = "published"
    draws: int = 500
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        choices = {
            "vocabulary": ("hico-det", "data"),
            "zero_shot": ("", "uc_rf", "uc_nf", "uo", "nf"),
            "ap": ("11-point", "area"),
            "iou": ("inclusive", "half_open"),
            "ties": ("together", "index"),
            "compat": ("", "matlab", "qpic", "strict"),
            "triplets": ("published", "detector"),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"{name} is {value!r} (expected {' | '.join(filter(None, allowed))})")
        if self.top < 0 or not 0 <= self.nms < 1 or self.draws < 0:
            raise ConfigError("top and draws must be 0 or above, nms from 0 up to 1")

    def predict(self, model: Detector, data: Dataset) -> pa.Table:
        """Returns one row per image. The detector is asked for the objects and verbs of the vocabulary."""
        classes = self._query_classes(data)
        objects, predicates = _names(classes)
        if self.vocabulary == "hico-det":
            objects, predicates = list(vocabulary("hico-det").objects), list(vocabulary("hico-det").predicates)
        rule = self.rule(classes) if self.triplets == "published" else None
        table = predict(model, data, objects, predicates, rule=rule, batch_size=self.batch_size)
        labelled = dict(zip(data.uids, extras_of(data, LABELLED), strict=True))
        if any(objects is not None for objects in labelled.values()):
            shown = [labelled[uid] for uid in table["uid"].to_pylist()]
            table = table.append_column(LABELLED, pa.array(shown, pa.list_(pa.string())))
        facts: dict[str, Any] = {"options": {f.name: getattr(self, f.name) for f in fields(self) if f.name != "train"}}
        facts["classes"] = [list(triplet) for triplet in classes]
        if self.train is not None:
            counts = GraphColumns.of(self.train).triplets()
            facts |= {"train_counts": [counts[triplet] for triplet in classes], "train_fingerprint": self.train.fingerprint}
        return with_facts(table, **facts)

    def rule(self, classes: Sequence[Triplet]) -> TripletRule:
        """Triplet rule of the published protocol; subjects are named and scored where classes have several."""
        possible = frozenset((predicate, thing) for _, predicate, thing in classes)
        if any(subject != PERSON for subject, _, _ in classes):
            return TripletRule("scored", possible=possible, top=self.top)
        return TripletRule("cut" if self.zero_shot == "nf" else "given", PERSON, possible, top=self.top)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers. `graph_records.records` makes rows from graphs
        at hand."""
        facts = facts_of(records)
        classes = self._classes(records, facts)
        objects, predicates = self._vocabularies(records, classes)
        truth, predicted = (
            ClassTriplets.of(GraphArrays.of(records, side, objects=objects, predicates=predicates), classes, objects, predicates)
            for side in SIDES
        )
        claimed_R = claims(predicted, truth, self.iou, strict=self.compat == "strict", touching=self.compat != "qpic")
        kept = self._kept_rows(predicted, truth)
        kind_R, image_R, confidence_R = predicted.kind[kept], predicted.image[kept], predicted.confidence[kept]
        hit_R = first_claims(claimed_R[kept], confidence_R)
        group_N, groups = codes(truth.graphs.groups)
        object_K = np.array([objects.index(triplet[2]) for triplet in classes], np.int64)
        shows_object = _objects_shown(records, truth, object_K, objects)
        known_R = np.flatnonzero(shows_object[image_R, object_K[kind_R]])
        default, known_object = (
            PrecisionRecallCurves.of(
                hit_R[counted],
                confidence_R[counted],
                kind_R[counted],
                group_N[image_R[counted]],
                truth_class=truth.kind,
                truth_group=group_N[truth.image],
                classes=len(classes),
                groups=groups,
                ties=self.ties,
            )
            for counted in (slice(None), known_R)
        )
        parts = self._parts(classes, facts)
        metrics, ap_K = self._means(default, parts)
        metrics |= {f"ko_{name}": mean for name, mean in self._means(known_object, parts)[0].items()}
        notes = {name: value for name, value in facts.items() if name not in ("classes", "train_counts")}
        notes |= self._declared_facts(facts)
        notes |= {
            "known_object": f"images {_known_by(records)}",
            "share_tied": default.share_tied,
            "classes_scored": int((np.bincount(truth.kind, minlength=len(classes)) > 0).sum()),
            "truths_outside_classes": truth.outside,
            "predictions_outside_classes": predicted.outside,
            "ap_by_class": {" ".join(classes[k]): float(ap_K[k]) for k in np.flatnonzero(np.isfinite(ap_K)).tolist()},
        }
        return Result(self.name, self.version, self.main, metrics, len(truth.graphs), groups, notes=notes)

    # ------------------------------------------------------------ classes

    def _query_classes(self, data: Dataset) -> list[Triplet]:
        """Classes in order. Raises an error for names of the data outside the vocabulary, before the model runs."""
        graphs, published = GraphColumns.of(data), vocabulary("hico-det")
        if self.vocabulary == "hico-det":
            if strange := graphs.first_outside(published.objects, published.predicates):
                problem = f"{strange[1]!r} is not a name of HICO-DET"
                expected = 'its 80 objects and 117 verbs, or vocabulary="data"'
                raise DataError(problem, file=data.name, row=strange[0], field="relations", expected=expected)
            return list(published.triplets)
        if not (triplets := graphs.triplets()):
            raise DataError(f"'{data.name}' has no relation to score", field="relations", expected="samples with relations")
        return sorted(triplets)

    def _classes(self, records: pa.Table, facts: dict[str, Any]) -> list[Triplet]:
        if self.vocabulary == "hico-det":
            return list(vocabulary("hico-det").triplets)
        if "classes" in facts:
            return [(subject, predicate, thing) for subject, predicate, thing in facts["classes"]]
        return sorted(GraphColumns.of_lists(records, PREFIX["truth"]).triplets())

    def _vocabularies(self, records: pa.Table, classes: Sequence[Triplet]) -> tuple[list[str], list[str]]:
        """Object names and predicates that records may hold."""
        if self.vocabulary == "hico-det":
            return list(vocabulary("hico-det").objects), list(vocabulary("hico-det").predicates)
        objects, predicates = _names(classes)
        things = (names_in(records, column) for column in ("truth_label", "label"))
        verbs = (names_in(records, column) for column in ("truth_predicate", "predicate"))
        return sorted(set(objects).union(*things)), sorted(set(predicates).union(*verbs))

    def _parts(self, classes: Sequence[Triplet], facts: dict[str, Any]) -> dict[str, Bools]:
        """Named subsets of classes of this result."""
        parts = {"full": np.ones(len(classes), bool)}
        counts = facts.get("train_counts")
        if counts is not None or self.vocabulary == "hico-det":
            rare = np.zeros(len(classes), bool)
            # The published list was counted on the whole training set; `train` may be the few shots that a model saw.
            rare[list(vocabulary("hico-det").rare) if self.vocabulary == "hico-det" else np.array(counts) < RARE_BELOW] = True
            parts |= {"rare": rare, "non_rare": ~rare}
        if self.unseen or self.zero_shot not in ("", "nf"):
            unseen = np.zeros(len(classes), bool)
            unseen[list(self._unseen(classes, counts))] = True
            parts |= {"unseen": unseen, "seen": ~unseen}
        return parts

    def _unseen(self, classes: Sequence[Triplet], counts: Sequence[int] | None) -> Sequence[int]:
        if self.unseen:
            if max(self.unseen) >= len(classes) or min(self.unseen) < 0:
                raise ConfigError(f"unseen names class {max(self.unseen)} (expected 0..{len(classes) - 1})")
            return self.unseen
        if self.vocabulary == "hico-det":
            return unseen(self.zero_shot)
        if self.zero_shot == "uo" or counts is None:
            expected = "the positions of the unseen classes in `unseen`" + ("" if self.zero_shot == "uo" else ", or `train`")
            raise ConfigError(f"zero_shot {self.zero_shot!r} has no published list for your own classes (expected {expected})")
        return unseen_by_count(classes, counts, rare_first=self.zero_shot == "uc_rf")

    # ------------------------------------------------------------ numbers

    def _kept_rows(self, predicted: ClassTriplets, truth: ClassTriplets) -> Ints:
        """Scored predictions, by class and best first: the best of each image, minus those removed by NMS or a `compat` fault."""
        rows = by_class(predicted.kind, predicted.confidence)
        if self.top and np.bincount(predicted.image, minlength=1).max() > self.top:
            best = best_first(predicted.confidence)
            kept = np.zeros(len(rows), bool)
            kept[best[first_of_each(predicted.image[best], self.top)]] = True
            rows = rows[kept[rows]]
        if self.nms:
            key = predicted.image[rows] * (predicted.kind.max(initial=0) + 1) + predicted.kind[rows]
            left = relation_nms(predicted.graphs, predicted.rows[rows], key, self.nms, inclusive=self.iou == "inclusive")
            rows = rows[np.isin(predicted.rows[rows], left)]
        if self.compat == "qpic":
            rows = rows[np.diff(truth.graphs.box_start)[predicted.image[rows]] > 0]
        return rows

    def _means(self, curves: PrecisionRecallCurves, parts: dict[str, Bools]) -> tuple[dict[str, Metric], Floats]:
        return mean_average_precision(
            curves,
            parts,
            rule=self.ap,
            draws=self.draws,
            seed=self.seed,
            float_recall=self.compat in FLOAT_RECALL,
            absent_is_zero=self.compat == "matlab",
        )

    def _declared_facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Facts of the result: scorer, AP rule, thresholds, settings."""
        published = self.vocabulary == "hico-det"
        return {
            "scorer": f"hico/{self.compat or 'official'}",
            "ap_rule": self.ap,
            "iou": f"{self.iou}, {'above' if self.compat == 'strict' else 'at least'} .5 for both boxes",
            "relation_nms": nms_ran(facts, nms_description(self.nms)),
            "top": self.top,
            "ties": self.ties,
            "zero_shot": self.zero_shot,
            "rare": f"fewer than {RARE_BELOW} training instances, {'published list' if published else 'counted in `train`'}",
            "classes_without_truth": "0" if self.compat == "matlab" else "left out",
            "compat": self.compat,
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }


def _objects_shown(records: pa.Table, truth: ClassTriplets, object_K: Ints, objects: Sequence[str]) -> Bools:
    """Objects with which each image shows a relation, annotated or only labelled: bool [N, C]."""
    shown = np.zeros((len(truth.graphs), len(objects)), bool)
    shown[truth.image, object_K[truth.kind]] = True
    if LABELLED in records.column_names:
        column = {name: n for n, name in enumerate(objects)}
        for row, names in enumerate(records.column(LABELLED).to_pylist()):
            if strange := [name for name in names or () if name not in column]:
                raise DataError(
                    f"{strange[0]!r} is not an object of the classes", row=row, field=LABELLED, expected=f"such as {objects[0]!r}"
                )
            shown[row, [column[name] for name in names or ()]] = True
    return shown


def _known_by(records: pa.Table) -> str:
    """Description of the images that the known-object setting selects."""
    if LABELLED not in records.column_names:
        return "with an annotated relation to the object"
    without = records.column(LABELLED).null_count
    return "with an image-level label of the object" + (f"; {without} without labels: an annotated relation" if without else "")


def _names(classes: Sequence[Triplet]) -> tuple[list[str], list[str]]:
    """Object names (subjects among them) and predicates, sorted."""
    return sorted({name for s, _, o in classes for name in (s, o)}), sorted({p for _, p, _ in classes})
