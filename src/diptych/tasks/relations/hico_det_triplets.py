"""Matching of HICO-DET's predictions to true triplets, by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.graph_records import Convention
from diptych.tasks.relations.hico_det_splits import Triplet
from diptych.tasks.relations.triplet_matching import Floats, Ints, best_truths, equal_pairs, triplet_overlaps


@dataclass(frozen=True, slots=True)
class ClassTriplets:
    """Relations of one side by class: their rows, classes, images and scores; `outside` counts relations of no class."""

    graphs: GraphArrays
    rows: Ints
    kind: Ints
    image: Ints
    confidence: Floats
    outside: int

    @classmethod
    def of(
        cls, graphs: GraphArrays, classes: Sequence[Triplet], objects: Sequence[str], predicates: Sequence[str]
    ) -> ClassTriplets:
        thing, verb = ({name: code for code, name in enumerate(names)} for names in (objects, predicates))
        class_of = np.full((len(objects), len(predicates), len(objects)), -1, np.int32)
        for k, (s, p, o) in enumerate(classes):
            class_of[thing[s], verb[p], thing[o]] = k
        kind = class_of[graphs.label[graphs.subject], graphs.predicate, graphs.label[graphs.object]]
        rows = np.flatnonzero(kind >= 0)
        image, confidence = graphs.image_of_relation[rows], graphs.confidence[rows]
        return cls(graphs, rows, kind[rows].astype(np.int64), image, confidence, len(kind) - len(rows))


def claims(
    predicted: ClassTriplets, truth: ClassTriplets, convention: Convention, *, strict: bool, touching: bool = True
) -> Ints:
    """Index of the best matching true triplet of its class for every prediction, -1 where the IoU is too small. `touching`: see
    `overlap`."""
    width = int(max(predicted.kind.max(initial=0), truth.kind.max(initial=0))) + 1
    t, p = equal_pairs(truth.image * width + truth.kind, predicted.image * width + predicted.kind)
    inclusive = convention == "inclusive"
    share = triplet_overlaps(
        truth.graphs, predicted.graphs, truth.rows[t], predicted.rows[p], inclusive=inclusive, touching=touching
    )
    chosen = best_truths(t, p, share)
    chosen = chosen[share[chosen] > 0.5] if strict else chosen[share[chosen] >= 0.5]
    claimed = np.full(len(predicted.rows), -1)
    claimed[p[chosen]] = t[chosen]
    return claimed
