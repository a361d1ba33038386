"""HICO-DET's predictions and truths by class, and which true triplet each prediction claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.graph_records import Convention
from diptych.tasks.relations.hico_det_splits import Triplet
from diptych.tasks.relations.triplet_matching import Floats, Ints, best_truths, both_overlaps, equal_pairs


@dataclass(frozen=True, slots=True)
class Triplets:
    """The relations of one side that belong to a class: their rows, classes, images and scores; `outside` counts the others."""

    graphs: GraphArrays
    rows: Ints
    kind: Ints
    image: Ints
    confidence: Floats
    outside: int

    @classmethod
    def of(cls, graphs: GraphArrays, classes: Sequence[Triplet], objects: Sequence[str], predicates: Sequence[str]) -> Triplets:
        thing, verb = ({name: code for code, name in enumerate(names)} for names in (objects, predicates))
        class_of = np.full((len(objects), len(predicates), len(objects)), -1, np.int32)
        for k, (s, p, o) in enumerate(classes):
            class_of[thing[s], verb[p], thing[o]] = k
        kind = class_of[graphs.label[graphs.subject], graphs.predicate, graphs.label[graphs.object]]
        rows = np.flatnonzero(kind >= 0)
        image, confidence = graphs.image_of_relation[rows], graphs.confidence[rows]
        return cls(graphs, rows, kind[rows].astype(np.int64), image, confidence, len(kind) - len(rows))


def claims(found: Triplets, truth: Triplets, convention: Convention, *, strict: bool, touching: bool = True) -> Ints:
    """For every prediction the true triplet of its class that it overlaps best, -1 where that is too little. `touching`: see `overlap`."""
    width = int(max(found.kind.max(initial=0), truth.kind.max(initial=0))) + 1
    t, p = equal_pairs(truth.image * width + truth.kind, found.image * width + found.kind)
    inclusive = convention == "inclusive"
    share = both_overlaps(truth.graphs, found.graphs, truth.rows[t], found.rows[p], inclusive=inclusive, touching=touching)
    chosen = best_truths(t, p, share)
    chosen = chosen[share[chosen] > 0.5] if strict else chosen[share[chosen] >= 0.5]
    claimed = np.full(len(found.rows), -1)
    claimed[p[chosen]] = t[chosen]
    return claimed
