"""V-COCO as detectors of the DETR family score it in training ("mAP_thesis" of QPIC, 2021).  Protocol `v_coco_triplets`, version 2.

This is not AP role and usually differs from it by some points: do not compare the two. Classes are the 29 action-roles; every
true relation counts. A prediction is matched to the true relation of its class with the largest min(IoU of the people, IoU of the
objects); labels must agree, and the first one with at least .5 takes it. If the truth has no object, only the person is compared.
No person is ignored, annotated or not. Each image contributes its 100 best triplets; AP is the 11-point rule.

`thesis` is the mean over the 24 action-roles with an object and without "point instr", `all` the mean over all 29.

`compat="published"` repeats what the released scorer does differently: among the 24 a class without a true relation counts 0, a
recall of exactly 3 in 10 falls short of its threshold, equal scores are in the order of the rows, and a box without area overlaps
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.box_iou import aligned_box_iou
from diptych.core.errors import ConfigError
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.detection.average_precision import PrecisionRecallCurves, Rule, first_claims, mean_average_precision
from diptych.tasks._scoring.intervals import codes
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.relations.graph_arrays import GraphArrays, names_in
from diptych.tasks.relations.graph_records import nms_ran
from diptych.tasks.relations.relation_nms import nms_description, relation_nms
from diptych.tasks.relations.triplet_matching import Compat, Floats, Ints, RankedRelations, best_truths, equal_pairs
from diptych.tasks.relations.v_coco import LEFT_OUT, VCoco
from diptych.tasks.relations.v_coco_people import HAS_ROLE, ROLES

PARTS = {"thesis": HAS_ROLE & (np.array(ROLES) != LEFT_OUT), "all": np.ones(len(ROLES), bool)}


@dataclass(frozen=True, slots=True)
class VCocoTriplets(VCoco):
    """Mean AP over 24 action-roles, and over all 29. Fields as in `VCoco`, and:

    top     maximum number of triplets per image, the best ones; 0 uses all
    compat  "published" reproduces the differences of the released scorer
    """

    name: ClassVar[str] = "v_coco_triplets"
    main: ClassVar[str] = "thesis"

    ap: Rule = "11-point"
    top: int = 100
    compat: Compat = ""

    @property
    def _cut(self) -> int:
        return self.top

    def __post_init__(self) -> None:
        VCoco.__post_init__(self)
        if self.compat not in ("", "published") or self.top < 0:
            raise ConfigError(f"compat is {self.compat!r}, top {self.top} (expected published or nothing, and 0 or above)")

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        labels = sorted({*names_in(records, "truth_label"), *names_in(records, "label")})
        truth, predicted = (GraphArrays.of(records, side, objects=labels, predicates=ROLES) for side in ("truth", "prediction"))
        rows = self._kept_rows(predicted)
        hit = first_claims(self._claims(truth, predicted, rows), predicted.confidence[rows])
        group_N, groups = codes(truth.groups)
        curves = PrecisionRecallCurves.of(
            hit,
            predicted.confidence[rows],
            predicted.predicate[rows],
            group_N[predicted.image_of_relation[rows]],
            truth_class=truth.predicate,
            truth_group=group_N[truth.image_of_relation],
            classes=len(ROLES),
            groups=groups,
            ties="index" if self.compat else self.ties,
        )
        metrics: dict[str, Metric] = {}
        for part, classes_K in PARTS.items():
            lacking = bool(self.compat) and part == "thesis"
            metrics |= mean_average_precision(
                curves,
                {part: classes_K},
                rule=self.ap,
                draws=self.draws,
                seed=self.seed,
                float_recall=bool(self.compat),
                absent_is_zero=lacking,
            )[0]
        notes = {
            **facts_of(records),
            "scorer": "vcoco/triplets" + (" (published habits)" if self.compat else ""),
            "ap_rule": self.ap,
            "iou": f"{self.iou}, at least .5 for both boxes",
            "relation_nms": nms_ran(facts_of(records), nms_description(self.nms)),
            "top": self.top,
            "ties": "index" if self.compat else self.ties,
            "share_tied": curves.share_tied,
            "compat": self.compat,
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(truth), groups, notes=notes)

    def _kept_rows(self, predicted: GraphArrays) -> Ints:
        """The rows that count: the best of each image, less what NMS removes."""
        order = RankedRelations.of(predicted.image_of_relation, predicted.confidence)
        rows = np.sort(order.row[order.rank <= self.top] if self.top else order.row)
        if not self.nms:
            return rows
        key = (predicted.image_of_relation[rows] * len(ROLES) + predicted.predicate[rows]) * 2 + (
            predicted.subject == predicted.object
        )[rows]
        return relation_nms(predicted, rows, key, self.nms, inclusive=self.iou == "inclusive")

    def _claims(self, truth: GraphArrays, predicted: GraphArrays, rows: Ints) -> Ints:
        """Index of the true relation that each prediction matches, -1 where the IoU is too small."""
        key = (side.image_of_relation * len(ROLES) + side.predicate for side in (truth, predicted))
        t, p = equal_pairs(next(key), next(key)[rows])
        of_t, of_p = self._ends(truth, t), self._ends(predicted, rows[p])
        subject, thing = (self._share(truth, predicted, one, other) for one, other in zip(of_t, of_p, strict=True))
        nothing = of_t[0] == of_t[1]
        share = np.where(nothing, subject, np.where(of_p[0] == of_p[1], 0.0, np.minimum(subject, thing)))
        chosen = best_truths(t, p, share)
        chosen = chosen[share[chosen] >= 0.5]
        claimed = np.full(len(rows), -1)
        claimed[p[chosen]] = t[chosen]
        return claimed

    @staticmethod
    def _ends(side: GraphArrays, rows: Ints) -> tuple[Ints, Ints]:
        return side.subject[rows], side.object[rows]

    def _share(self, truth: GraphArrays, predicted: GraphArrays, one: Ints, other: Ints) -> Floats:
        """IoU of boxes of equal labels; 0 where the labels differ."""
        share = aligned_box_iou(truth.box[one], predicted.box[other], inclusive=self.iou == "inclusive", touching=not self.compat)
        return np.where(truth.label[one] == predicted.label[other], share, 0.0)
