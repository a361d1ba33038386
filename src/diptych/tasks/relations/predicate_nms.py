"""Predicate NMS: stops near-duplicate pairs of an image from all claiming the same predicate (from the evaluation of PE-Net,
2023).

Published as part of an evaluation, although it can follow any head: it spreads predicates over pairs and so raises mean recall.
Results with and without it are not comparable.

The released scorer does more (`predicate_nms_by_pair(..., released=True)`): its scores include "no relation", which makes any two
pairs similar; and a pair with all predicates suppressed stays in the ranking as "no relation", with its high probability: such
pairs take ranks among the first K that no true relation can then have.

Letters: R relations, Q pairs of one image, K predicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.core.box_iou import aligned_box_iou
from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.triplet_matching import Bools, Floats, Ints

OVERLAP = 0.6  # of subjects and of objects
ALIKE = 0.7  # sum over predicates of sqrt(p^2 + q^2)


@dataclass(frozen=True, slots=True)
class PredicateNmsResult:
    """stays    [R] bool: the relation that is kept for its pair
    closed   [R] bool: one row of each pair without a kept relation
    nothing  [R] 1 minus the sum of the confidences of that row's pair: the probability of "no relation" under a softmax
    """

    stays: Bools
    closed: Bools
    nothing: Floats


def predicate_nms(predicted: GraphArrays, *, inclusive: bool = False) -> Bools:
    """Keep mask [R] of relations, at most one a pair. `inclusive` counts the last pixel of boxes in.

    In each image the (pair, predicate) with the highest confidence wins and decides its pair; the predicate is then suppressed
    for every other pair with the same two labels whose subject and object boxes both overlap the winner's by .6 and whose
    confidences are similar; and so on. A pair with all predicates suppressed keeps none.
    """
    return predicate_nms_by_pair(predicted, inclusive=inclusive).stays


def predicate_nms_by_pair(predicted: GraphArrays, *, inclusive: bool = False, released: bool = False) -> PredicateNmsResult:
    """Like `predicate_nms`, and also returns the pairs that keep no relation; `released` treats any two pairs as similar."""
    relations = len(predicted.predicate)
    out = PredicateNmsResult(np.zeros(relations, bool), np.zeros(relations, bool), np.zeros(relations))
    for start, stop in zip(predicted.relation_start[:-1], predicted.relation_start[1:], strict=True):
        if stop > start:
            won, closed, nothing = _winners(predicted, np.arange(start, stop), inclusive, not released)
            out.stays[start + np.array(won, np.int64)] = True
            out.closed[start + closed] = True
            out.nothing[start + closed] = nothing
    return out


def _winners(predicted: GraphArrays, rows: Ints, inclusive: bool, alike: bool) -> tuple[list[int], Ints, Floats]:
    """Positions of the winning rows, and of one row of each pair without a winner, with 1 minus the sum of its confidences."""
    ends = np.stack([predicted.subject[rows], predicted.object[rows]], axis=1)
    pairs, pair = np.unique(ends, axis=0, return_inverse=True)
    pair = pair.reshape(-1)
    kinds, kind = np.unique(predicted.predicate[rows], return_inverse=True)
    share_QK = np.zeros((len(pairs), len(kinds)))
    row_QK = np.full((len(pairs), len(kinds)), -1)
    for row in np.argsort(predicted.confidence[rows], kind="stable"):  # of doubles the most confident one stays
        share_QK[pair[row], kind[row]], row_QK[pair[row], kind[row]] = predicted.confidence[rows[row]], row
    rivals_QQ = _rivals(predicted, pairs, share_QK, inclusive, alike)
    open_QK = np.where(row_QK >= 0, share_QK, -1.0)
    won, kept_Q = list[int](), np.zeros(len(pairs), bool)
    while open_QK.max() >= 0:
        q, k = np.unravel_index(int(open_QK.argmax()), open_QK.shape)
        won.append(int(row_QK[q, k]))
        kept_Q[q] = True
        open_QK[rivals_QQ[q], k] = -1.0
        open_QK[q] = -1.0
    closed_Q = row_QK.max(axis=1)[~kept_Q]
    return won, closed_Q, (1 - share_QK.sum(axis=1)[~kept_Q]).clip(0, 1)


def _rivals(predicted: GraphArrays, pairs: Ints, share_QK: Floats, inclusive: bool, alike: bool) -> Bools:
    subject, other = predicted.label[pairs[:, 0]], predicted.label[pairs[:, 1]]
    rivals: Bools = (subject[:, None] == subject) & (other[:, None] == other)
    np.fill_diagonal(rivals, False)
    i, j = np.nonzero(rivals)
    ends = (aligned_box_iou(predicted.box[pairs[i, end]], predicted.box[pairs[j, end]], inclusive=inclusive) for end in (0, 1))
    close = np.minimum(*ends) >= OVERLAP
    if alike:
        close &= np.sqrt(share_QK[i] ** 2 + share_QK[j] ** 2).sum(axis=1) > ALIKE
    rivals[i, j] = close
    return rivals
