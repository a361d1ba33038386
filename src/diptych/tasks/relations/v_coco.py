"""V-COCO: role average precision over the actions of people.  Protocol `v_coco`, version 2 (Gupta and Malik, 2015).

A prediction is a person, an action with a role ("hit instr"), the box that fills the role, and a score. It is matched to the true
person whose box it overlaps most, and is correct if that person performs the action, both IoUs are .5 or more, and no
better-scored prediction of the same action and role took that person before. Every person who performs the action counts as a
positive, with or without an object. If the true person's object is not in the image, scenario 1 requires the prediction to have
no object, scenario 2 accepts any box. AP is the area under the precision envelope; boxes include both edge pixels.

AP role is the mean over 24 action-roles: the 25 of the annotations without "point instr", which the literature leaves out. The
mean over all 25 is also reported, and the agent AP over 26 actions, which considers only the person and the action.

Graph encoding, for truth and predictions: a relation person --"hit instr"--> object for an action with its object, and a relation
of the person to itself ("hit instr", or "stand") for an action without one. People of COCO whom V-COCO did not annotate are
ignored: a column `annotated` of the data marks the annotated boxes; without it, all are.

Queries to the detector, as for RLIPv2 (Yuan et al., 2023): action-roles as phrases ("sit instr" is "sit on/at", "hit instr" is
"hit with"), COCO's 80 objects and an 81st, "missing objects", for an object that is not in the image. If the detector supports a
triplet rule, the score is relation x object, every subject is a person, and nothing is cut: each query scores each action.
Version 1 queried the names of action-roles, without the 81st object, and used `detect`.

True boxes end on their last pixel, as the released scorer computes them from COCO's (x + w - 1), predictions are unchanged, and
both widths then get one more pixel ("inclusive"). So a prediction equal to the true box has an IoU slightly below 1.
`iou="half_open"` compares the boxes unchanged.

Where others differ: scorers of the DETR family print an 11-point mean over 24 classes ("mAP_thesis"), which is not AP role but
protocol `v_coco_triplets`; images without a true person crash the released scorer, and count as false positives here. Objects
have no class in this protocol.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.box_iou import aligned_box_iou
from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.triplet_rule import TripletRule
from diptych.data.graphs.columns import GraphColumns, extras_of
from diptych.data.vocabularies import MISSING, PERSON, vocabulary
from diptych.tasks._scoring.detection.average_precision import (
    PrecisionRecallCurves,
    Rule,
    Ties,
    by_class,
    first_claims,
    mean_average_precision,
)
from diptych.tasks._scoring.intervals import codes
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.relations.graph_arrays import GraphArrays, names_in
from diptych.tasks.relations.graph_records import Convention, Rules, nms_ran, predict
from diptych.tasks.relations.relation_nms import nms_description, relation_nms
from diptych.tasks.relations.triplet_matching import Bools, Floats, Ints, equal_pairs
from diptych.tasks.relations.v_coco_people import ACTION_OF_ROLE, ACTIONS, ANNOTATED, HAS_ROLE, ROLES, People, with_annotated
from diptych.tasks.relations.v_coco_texts import Texts, possible_pairs

LEFT_OUT = "point instr"


@dataclass(frozen=True, slots=True)
class VCoco:
    """AP role in scenario 1 and 2 (24 action-roles, and all 25), and agent AP.

    nms   relation NMS: a triplet is removed if IoU_s x IoU_o ** .5 with a better one of its role is above this; 0 is off
    ap    area (under the envelope) | 11-point
    iou   inclusive (both edge pixels count, "+1") | half_open
    ties  rule for equal scores: together (no order) | index (earlier row first, as published)
    texts     published: phrases, and "missing objects" | roles: the names of action-roles and 80 objects
    possible  a NumPy file, the published ``corre_vcoco.npy``: [29, 80], above 0 if an object can have a role; all other combinations are
              left out. "": all are allowed. Missing objects are always allowed
    triplets  published: by the rule above, if the detector supports it | detector: by its own `detect`
    """

    name: ClassVar[str] = "v_coco"
    version: ClassVar[int] = 2
    needs: ClassVar[type] = Detector
    main: ClassVar[str] = "scenario_1"

    nms: float = 0.0
    ap: Rule = "area"
    iou: Convention = "inclusive"
    ties: Ties = "together"
    texts: Texts = "published"
    possible: str = ""
    triplets: Rules = "published"
    draws: int = 500
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        choices = {
            "ap": ("area", "11-point"),
            "iou": ("inclusive", "half_open"),
            "ties": ("together", "index"),
            "texts": ("published", "roles"),
            "triplets": ("published", "detector"),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"{name} is {value!r} (expected {' | '.join(allowed)})")
        if not 0 <= self.nms < 1 or self.draws < 0:
            raise ConfigError("nms must be from 0 up to 1, draws 0 or above")

    def predict(self, model: Detector, data: Dataset) -> pa.Table:
        """One row an image. The detector is asked for the 29 action-roles, COCO's 80 objects, and the one that is missing."""
        annotated = dict(zip(data.uids, extras_of(data, ANNOTATED), strict=True))
        if strange := GraphColumns.of(data).first_outside(None, ROLES):
            problem, expected = f"{strange[1]!r} is not an action-role of V-COCO", f"such as {ROLES[0]!r}, {ROLES[1]!r}"
            raise DataError(problem, file=data.name, row=strange[0], field="relations", expected=expected)
        published, rule = vocabulary("v-coco"), self.rule() if self.triplets == "published" else None
        objects, words = (
            (published.objects, ROLES) if self.texts == "roles" else (published.object_texts, published.predicate_texts)
        )
        means = dict(zip(words, ROLES, strict=True))
        table = predict(
            model, data, objects, words, rule=rule, means=means, missing=published.missing, batch_size=self.batch_size
        )
        return with_facts(with_annotated(table, [annotated[uid] for uid in table["uid"].to_pylist()]), options=asdict(self))

    def rule(self) -> TripletRule:
        """Triplet rule of the published protocol."""
        missing = MISSING if self.texts == "published" else ""
        possible = possible_pairs(Path(self.possible), self.texts) if self.possible else None
        return TripletRule("given", PERSON, possible, missing, top=self._cut)

    @property
    def _cut(self) -> int:
        return 0

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        people, predicted = People.of(records, inclusive=self.iou == "inclusive"), self._predictions(records)
        groups = codes(people.graphs.groups)
        subject, share = people.nearest(predicted.graphs, inclusive=self.iou == "inclusive")
        roles = self._role_curves(people, predicted, subject, share, groups)
        agents = self._agent_curves(people, predicted, subject, share, groups)
        metrics: dict[str, Metric] = {}
        role_ap: dict[str, dict[str, float]] = {}
        for name, curves in roles.items():
            means, ap_K = self._means(curves, {name: HAS_ROLE & (np.array(ROLES) != LEFT_OUT), f"{name}_25": HAS_ROLE})
            metrics |= means
            role_ap[name] = _by_name(ap_K, ROLES, HAS_ROLE)
        means, agent_ap_K = self._means(agents, {"agent": np.ones(len(ACTIONS), bool)})
        metrics |= means
        notes = {
            **facts_of(records),
            "scorer": "vcoco/official",
            "ap_rule": self.ap,
            "iou": f"{self.iou}{', true boxes end on their last pixel' * (self.iou == 'inclusive')}, at least .5 for both boxes",
            "relation_nms": nms_ran(facts_of(records), nms_description(self.nms)),
            "ties": self.ties,
            "action_roles": f"24, without {LEFT_OUT!r}; all 25 under _25",
            "share_tied": roles["scenario_1"].share_tied,
            "people": int((people.is_person & ~people.ignored).sum()),
            "people_ignored": int(people.ignored.sum()),
            "predictions_without_person": predicted.without_person,
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
            "role_ap": role_ap,
            "agent_ap": _by_name(agent_ap_K, ACTIONS, np.ones(len(ACTIONS), bool)),
        }
        return Result(self.name, self.version, self.main, metrics, len(people.graphs), groups[1], notes=notes)

    def _predictions(self, records: pa.Table) -> RolePredictions:
        graphs = GraphArrays.of(records, "prediction", objects=(labels := names_in(records, "label")), predicates=ROLES)
        of_person = graphs.label[graphs.subject] == (labels.index(PERSON) if PERSON in labels else -1)
        rows = np.flatnonzero(of_person)
        if self.nms:
            nothing = graphs.subject[rows] == graphs.object[rows]
            key = (graphs.image_of_relation[rows] * len(ROLES) + graphs.predicate[rows]) * 2 + nothing
            rows = relation_nms(graphs, rows, key, self.nms, inclusive=self.iou == "inclusive")
        rows = rows[by_class(graphs.predicate[rows], graphs.confidence[rows])]
        return RolePredictions(graphs, rows, int((~of_person).sum()))

    def _role_curves(
        self, people: People, predicted: RolePredictions, subject: Ints, share: Floats, groups: tuple[Ints, int]
    ) -> dict[str, PrecisionRecallCurves]:
        """Role curves for each scenario. `subject` and `share` are the matched person and the IoU of every predicted box."""
        graphs, truth = predicted.graphs, people.graphs
        rows = predicted.rows[~people.skipped(subject[graphs.subject[predicted.rows]])]
        person, role = subject[graphs.subject[rows]], graphs.predicate[rows]
        says_nothing = graphs.subject[rows] == graphs.object[rows]
        doing = people.doing(person, ACTION_OF_ROLE[role]) & (share[graphs.subject[rows]] >= 0.5)
        with_object = np.flatnonzero(truth.subject != truth.object)
        in_picture = np.zeros((len(truth.box) + 1, len(ROLES)), bool)  # the last row is for person -1 (no person)
        in_picture[truth.subject[with_object], truth.predicate[with_object]] = True
        has_object = in_picture[person, role]
        slot = truth.subject[with_object] * len(ROLES) + truth.predicate[with_object]
        slot_of_row = person * len(ROLES) + role
        with_pair = np.flatnonzero(doing & has_object & ~says_nothing)
        t, p = equal_pairs(slot, slot_of_row[with_pair])
        boxes = truth.box[truth.object[with_object[t]]], graphs.box[graphs.object[rows[with_pair[p]]]]
        fits = aligned_box_iou(*boxes, inclusive=self.iou == "inclusive") >= 0.5
        found_object = np.zeros(len(rows), bool)
        found_object[with_pair[p[fits]]] = True
        curves = {}
        for name, excused in (("scenario_1", says_nothing), ("scenario_2", np.ones(len(rows), bool))):
            right = doing & (found_object | (~has_object & excused))
            hit = first_claims(np.where(right, slot_of_row, -1), graphs.confidence[rows])
            curves[name] = self._curves(
                hit, graphs.confidence[rows], role, graphs.image_of_relation[rows], people, ACTION_OF_ROLE, groups
            )
        return curves

    def _agent_curves(
        self, people: People, predicted: RolePredictions, subject: Ints, share: Floats, groups: tuple[Ints, int]
    ) -> PrecisionRecallCurves:
        """Agent curves. The score of a person for an action is the best score of their relations of that action."""
        graphs = predicted.graphs
        key = graphs.subject[predicted.rows] * len(ACTIONS) + ACTION_OF_ROLE[graphs.predicate[predicted.rows]]
        pair, inverse = np.unique(key, return_inverse=True)
        score = np.full(len(pair), -np.inf)
        np.maximum.at(score, inverse.reshape(-1), graphs.confidence[predicted.rows])
        box, action = np.divmod(pair, len(ACTIONS))
        counted = ~people.skipped(subject[box])
        box, action, score = box[counted], action[counted], score[counted]
        person = subject[box]
        right = people.doing(person, action) & (share[box] >= 0.5)
        hit = first_claims(np.where(right, person * len(ACTIONS) + action, -1), score)
        return self._curves(hit, score, action, graphs.image_of_box[box], people, np.arange(len(ACTIONS)), groups)

    def _curves(
        self, hit: Bools, score: Floats, kind: Ints, image: Ints, people: People, action_K: Ints, groups: tuple[Ints, int]
    ) -> PrecisionRecallCurves:
        person, truth_class = np.nonzero(people.does[:, action_K] & ~people.ignored[:, None])
        return PrecisionRecallCurves.of(
            hit,
            score,
            kind,
            groups[0][image],
            truth_class=truth_class,
            truth_group=groups[0][people.graphs.image_of_box[person]],
            classes=len(action_K),
            groups=groups[1],
            ties=self.ties,
        )

    def _means(self, curves: PrecisionRecallCurves, parts: dict[str, Bools]) -> tuple[dict[str, Metric], Floats]:
        return mean_average_precision(curves, parts, rule=self.ap, draws=self.draws, seed=self.seed)


@dataclass(frozen=True, slots=True)
class RolePredictions:
    """Relations with a person as subject, by role and best first; the others are counted."""

    graphs: GraphArrays
    rows: Ints
    without_person: int


def _by_name(ap_K: Floats, names: tuple[str, ...], part: Bools) -> dict[str, float]:
    return {names[k]: float(ap_K[k]) for k in np.flatnonzero(part & np.isfinite(ap_K)).tolist()}
