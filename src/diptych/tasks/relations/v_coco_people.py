"""People of V-COCO: annotation masks, actions, and the person of each predicted box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from diptych.core.box_iou import aligned_box_iou
from diptych.core.errors import DataError
from diptych.data.vocabularies import PERSON, vocabulary
from diptych.tasks.relations.graph_arrays import GraphArrays, names_in
from diptych.tasks.relations.triplet_matching import Bools, Floats, Ints, best_truths, equal_pairs

ANNOTATED = "annotated"
ROLES = vocabulary("v-coco").predicates
ACTIONS = tuple(vocabulary("v-coco").roles)
ACTION_OF_ROLE = np.array([ACTIONS.index(action) for action, roles in vocabulary("v-coco").roles.items() for _ in roles or ("",)])
HAS_ROLE = np.array([name not in ACTIONS for name in ROLES])


@dataclass(frozen=True, slots=True)
class People:
    """The true people among the boxes of the truth: [B] masks, and [B, 26] who does what."""

    graphs: GraphArrays
    is_person: Bools
    ignored: Bools
    does: Bools

    @classmethod
    def of(cls, records: pa.Table, *, inclusive: bool) -> People:
        """With `inclusive`, boxes end on their last pixel."""
        labels = names_in(records, "truth_label")
        graphs = GraphArrays.of(records, "truth", objects=labels, predicates=ROLES)
        if inclusive:
            low, high = graphs.box[:, :2], graphs.box[:, 2:]
            graphs = replace(graphs, box=np.concatenate([low, np.maximum(high - 1.0, low)], axis=1))
        is_person = graphs.label == (labels.index(PERSON) if PERSON in labels else -1)
        does = np.zeros((len(is_person), len(ACTIONS)), bool)
        does[graphs.subject, ACTION_OF_ROLE[graphs.predicate]] = True
        return cls(graphs, is_person, is_person & ~_annotated_boxes(records, graphs), does & is_person[:, None])

    def nearest(self, predicted: GraphArrays, *, inclusive: bool) -> tuple[Ints, Floats]:
        """For each predicted box, the true person in its image with the highest overlap (-1: no person), and the overlap."""
        people = np.flatnonzero(self.is_person)
        is_used = np.zeros(len(predicted.box), bool)
        is_used[predicted.subject] = True
        used = np.flatnonzero(is_used)
        t, p = equal_pairs(self.graphs.image_of_box[people], predicted.image_of_box[used])
        each = aligned_box_iou(self.graphs.box[people[t]], predicted.box[used[p]], inclusive=inclusive)
        chosen = best_truths(t, p, each)
        person, share = np.full(len(predicted.box), -1), np.zeros(len(predicted.box))
        person[used[p[chosen]]], share[used[p[chosen]]] = people[t[chosen]], each[chosen]
        return person, share

    def doing(self, person: Ints, action: Ints) -> Bools:
        """True if the person performs the action; False for person -1 (no person)."""
        doing = np.zeros(len(person), bool)
        somebody = np.flatnonzero(person >= 0)
        doing[somebody] = self.does[person[somebody], action[somebody]]
        return doing

    def skipped(self, person: Ints) -> Bools:
        """True for boxes whose person was not annotated."""
        skipped = np.zeros(len(person), bool)
        somebody = np.flatnonzero(person >= 0)
        skipped[somebody] = self.ignored[person[somebody]]
        return skipped


def with_annotated(records: pa.Table, annotated: Sequence[Sequence[bool] | None]) -> pa.Table:
    """Adds a column that marks, for each true box of each image, whether V-COCO's annotators labelled it. None: all boxes of the
    image."""
    column = pa.array([None if each is None else list(each) for each in annotated], pa.list_(pa.bool_()))
    return records.append_column(f"truth_{ANNOTATED}", column)


def _annotated_boxes(records: pa.Table, graphs: GraphArrays) -> Bools:
    annotated = np.ones(len(graphs.box), bool)
    name = f"truth_{ANNOTATED}"
    if name not in records.column_names:
        return annotated
    for row, each in enumerate(records.column(name).to_pylist()):
        start, stop = graphs.box_start[row], graphs.box_start[row + 1]
        if each is None:
            continue
        if len(each) != stop - start:
            problem = f"{graphs.uids[row]} has {len(each)} values for {stop - start} boxes"
            raise DataError(problem, row=row, field=ANNOTATED, expected="one per box")
        annotated[start:stop] = each
    return annotated
