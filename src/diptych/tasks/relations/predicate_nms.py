"""Predicate NMS: near-duplicate pairs of one image may not all claim the same predicate (in the evaluation of PE-Net, 2023).

Published as part of an evaluation, though it is a step after any head: it spreads predicates over pairs and so lifts mean recall. A
number with it and a number without it do not compare.

Letters: R relations, Q pairs of one image, K predicates.
"""

from __future__ import annotations

import numpy as np

from diptych.tasks.relations.graph_arrays import GraphArrays
from diptych.tasks.relations.triplet_matching import Bools, Floats, Ints, overlap

OVERLAP = 0.6  # of subjects and of objects
ALIKE = 0.7  # sum over predicates of sqrt(p^2 + q^2)


def predicate_nms(found: GraphArrays, *, inclusive: bool = False) -> Bools:
    """[R]: which relations stay, at most one a pair. `inclusive` counts the last pixel of boxes in.

    In each image the highest confidence of all (pair, predicate) wins and settles its pair; the predicate is then closed to every
    other pair with the same two labels, whose subject and object boxes both overlap the winner's by .6 and whose confidences are
    alike; and so on. A pair whose predicates are all closed keeps none.
    """
    stays = np.zeros(len(found.predicate), bool)
    for start, stop in zip(found.relation_start[:-1], found.relation_start[1:], strict=True):
        if stop > start:
            stays[start + np.array(_winners(found, np.arange(start, stop), inclusive), np.int64)] = True
    return stays


def _winners(found: GraphArrays, rows: Ints, inclusive: bool) -> list[int]:
    ends = np.stack([found.subject[rows], found.object[rows]], axis=1)
    pairs, pair = np.unique(ends, axis=0, return_inverse=True)
    pair = pair.reshape(-1)
    kinds, kind = np.unique(found.predicate[rows], return_inverse=True)
    share_QK = np.zeros((len(pairs), len(kinds)))
    row_QK = np.full((len(pairs), len(kinds)), -1)
    for row in np.argsort(found.confidence[rows], kind="stable"):  # of doubles the most confident one stays
        share_QK[pair[row], kind[row]], row_QK[pair[row], kind[row]] = found.confidence[rows[row]], row
    rivals_QQ = _rivals(found, pairs, share_QK, inclusive)
    open_QK = np.where(row_QK >= 0, share_QK, -1.0)
    won = []
    while open_QK.max() >= 0:
        q, k = np.unravel_index(int(open_QK.argmax()), open_QK.shape)
        won.append(int(row_QK[q, k]))
        open_QK[rivals_QQ[q], k] = -1.0
        open_QK[q] = -1.0
    return won


def _rivals(found: GraphArrays, pairs: Ints, share_QK: Floats, inclusive: bool) -> Bools:
    subject, other = found.label[pairs[:, 0]], found.label[pairs[:, 1]]
    rivals: Bools = (subject[:, None] == subject) & (other[:, None] == other)
    np.fill_diagonal(rivals, False)
    i, j = np.nonzero(rivals)
    ends = (overlap(found.box[pairs[i, end]], found.box[pairs[j, end]], inclusive=inclusive) for end in (0, 1))
    close = np.minimum(*ends) >= OVERLAP
    alike = np.sqrt(share_QK[i] ** 2 + share_QK[j] ** 2).sum(axis=1) > ALIKE
    rivals[i, j] = close & alike
    return rivals
