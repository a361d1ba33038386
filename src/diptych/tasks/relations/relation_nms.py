"""Relation NMS: of several triplets with the same names and overlapping boxes, the best-scored stays (CDN, Zhang et al., 2021)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.box_iou import aligned_box_iou
from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.triplet_matching import greedy_nms

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POWERS = (1.0, 0.5)
"""Of the overlaps of subjects and of objects in their product."""


def relation_nms(graphs: GraphArrays, rows: Ints, key: Ints, threshold: float, *, inclusive: bool) -> Ints:
    """Relation rows that are left, ascending.

    From the best score down, a triplet goes when IoU_s x IoU_o ** .5 with one of equal key that stays is above `threshold`. `key`
    has one number a row: what may suppress each other, usually image and class. Of equal scores the earlier row comes first.
    """
    order = np.argsort(-graphs.confidence[rows], kind="stable")
    rows, key = rows[order], key[order]
    subject, thing = graphs.box[graphs.subject[rows]], graphs.box[graphs.object[rows]]

    def share(i: Ints, j: Ints) -> Floats:
        ends = (
            aligned_box_iou(subject[i], subject[j], inclusive=inclusive),
            aligned_box_iou(thing[i], thing[j], inclusive=inclusive),
        )
        product: Floats = ends[0] ** POWERS[0] * ends[1] ** POWERS[1]
        return product

    left: Ints = np.sort(rows[greedy_nms(key, share, threshold)])
    return left


def nms_description(threshold: float) -> str:
    """Description of this NMS in the facts of a result; 0 is off."""
    return f"IoU_s x IoU_o ** .5 above {threshold:g}" if threshold else "none"
