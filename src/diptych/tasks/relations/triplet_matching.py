"""Matching of predicted to true triplets, for all images at once.

All functions work on rows of relations of two `GraphArrays` sides and on pairs of such rows: pairs of one image with equal names
are found by sorting, and boxes are compared only for those. The cost grows with the possible matches, not with images x
predictions x truths. Two IoU conventions are in use. Boxes here are half-open (width = x1 - x0), and so is the correct IoU; most
published scorers include the last pixel (width = x1 - x0 + 1), which makes small boxes overlap more: `inclusive`. Scorers that
descend from PPDM's (QPIC, RLIPv2) first check that the half-open boxes overlap at all, so touching boxes, and boxes without area,
have no overlap: `touching=False`.

Letters: R relations, M pairs of rows, D detections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.core.box_iou import aligned_box_iou
from diptych.tasks.relations.graph_arrays import GraphArrays

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Compat = Literal["", "published"]
FAR = 1 << 40  # rank of "no match"


def enclosing(one_M4: Floats, other_M4: Floats) -> Floats:
    """Union box of two boxes, row by row: the box of a phrase."""
    low, high = np.minimum(one_M4[:, :2], other_M4[:, :2]), np.maximum(one_M4[:, 2:], other_M4[:, 2:])
    return np.concatenate([low, high], axis=1)


def triplet_codes(side: GraphArrays, objects: int, predicates: int) -> Ints:
    """Codes [R] of (image, subject label, predicate, object label); equal codes, equal names in one image."""
    names = (side.label[side.subject] * predicates + side.predicate) * objects + side.label[side.object]
    numbers: Ints = side.image_of_relation * (objects * predicates * objects) + names
    return numbers


def equal_pairs(one_R: Ints, other_R: Ints) -> tuple[Ints, Ints]:
    """Rows (i, j) with one[i] == other[j], all of them, ordered by j and then by i."""
    order = np.argsort(one_R, kind="stable")
    keys = one_R[order]
    candidates = _sieve_keys(one_R, other_R)
    key = other_R[candidates]
    start, stop = np.searchsorted(keys, key, side="left"), np.searchsorted(keys, key, side="right")
    count = stop - start
    m = np.repeat(np.arange(len(candidates)), count)
    within = np.arange(len(m)) - np.repeat(np.cumsum(count) - count, count)
    return order[start[m] + within], candidates[m]


def _sieve_keys(one_R: Ints, other_R: Ints) -> Ints:
    """Positions in `other` whose keys may occur in `one`, by the low bits of the keys: most predictions match no true name."""
    size = 1 << (8 * len(one_R)).bit_length()
    seen = np.zeros(size, bool)
    seen[one_R & (size - 1)] = True
    return np.flatnonzero(seen[other_R & (size - 1)])


def triplet_overlaps(
    truth: GraphArrays, predicted: GraphArrays, t: Ints, p: Ints, *, inclusive: bool, touching: bool = True
) -> Floats:
    """Smaller of the subject IoU and the object IoU, for pairs of relation rows."""
    subject = aligned_box_iou(
        truth.box[truth.subject[t]], predicted.box[predicted.subject[p]], inclusive=inclusive, touching=touching
    )
    other = aligned_box_iou(
        truth.box[truth.object[t]], predicted.box[predicted.object[p]], inclusive=inclusive, touching=touching
    )
    return np.minimum(subject, other)


def phrase_overlaps(
    truth: GraphArrays, predicted: GraphArrays, t: Ints, p: Ints, *, inclusive: bool, touching: bool = True
) -> Floats:
    """IoU of the boxes around subject and object, for pairs of relation rows."""
    one = enclosing(truth.box[truth.subject[t]], truth.box[truth.object[t]])
    other = enclosing(predicted.box[predicted.subject[p]], predicted.box[predicted.object[p]])
    return aligned_box_iou(one, other, inclusive=inclusive, touching=touching)


# ---------------------------------------------------------------- order


@dataclass(frozen=True, slots=True)
class RankedRelations:
    """Predicted relations by image, best first, ties by row.

    row       rows of the relations, in that order
    rank      [D] rank within the image, from 1
    above     [D] number of relations of the image with a strictly higher score
    tied      [D] number of relations of the image with this score
    """

    row: Ints
    rank: Ints
    above: Ints
    tied: Ints

    @classmethod
    def of(cls, image_R: Ints, score_R: Floats, rows: Ints | None = None) -> RankedRelations:
        rows = np.arange(len(image_R)) if rows is None else rows
        row = rows[best_first(image_R[rows], score_R[rows])]
        return cls.sorted(image_R[row], score_R[row], row)

    @classmethod
    def sorted(cls, image_D: Ints, score_D: Floats, row_D: Ints) -> RankedRelations:
        """Ranked relations from rows that are already sorted."""
        position = np.arange(len(row_D))
        new_image = _starts(image_D)
        new_score = new_image | _starts(score_D)
        image_start, score_start = _last_start(new_image, position), _last_start(new_score, position)
        run = np.cumsum(new_score) - 1
        size = np.bincount(run) if len(run) else np.zeros(0, np.int64)
        return cls(row_D, position - image_start + 1, score_start - image_start, size[run].astype(np.int64))

    def keep(self, which_D: Bools, image_R: Ints, score_R: Floats) -> RankedRelations:
        """Selected relations with recomputed ranks."""
        row = self.row[which_D]
        return RankedRelations.sorted(image_R[row], score_R[row], row)


def best_first(image_D: Ints, score_D: Floats) -> Ints:
    """Indices that sort by image and descending score, ties by row.

    Rows that are already grouped by image, as in records, are sorted as a matrix with one image per row, which is several times
    faster than a single long sort; if a few crowded images would make that matrix mostly padding, the long sort is used.
    """
    start = np.flatnonzero(_starts(image_D))
    size = np.diff(start, append=len(image_D))
    if not len(start) or len(start) * size.max() > 4 * len(image_D) or (np.diff(image_D) < 0).any():
        return np.lexsort((-score_D, image_D))
    place_NP = np.arange(size.max())
    there_NP = place_NP < size[:, None]
    score_NP = np.full(there_NP.shape, np.inf)
    score_NP[there_NP] = -score_D
    order_NP = np.argsort(score_NP, axis=1, kind="stable")
    order: Ints = (order_NP + start[:, None])[there_NP]
    return order


def first_of_each(key_D: Ints, most: int = 1) -> Bools:
    """True for entries that are among the first `most` with their key, in the order given."""
    order = np.argsort(key_D, kind="stable")
    position = np.arange(len(key_D))
    nth = position - _last_start(_starts(key_D[order]), position)
    first = np.zeros(len(key_D), bool)
    first[order[nth < most]] = True
    return first


# ---------------------------------------------------------------- matches


@dataclass(frozen=True, slots=True)
class FirstMatches:
    """Rank of the best match of each true relation, in the terms that `ranks.hits` takes. No match: all FAR."""

    above: Ints
    tied: Ints
    tied_relevant: Ints
    by_index: Ints


def first_matches(t: Ints, p: Ints, order: RankedRelations, truths: int, relations: int) -> FirstMatches:
    """First matches from pairs (true row, predicted row). A prediction may match several truths; a truth counts once."""
    place_R = np.full(relations, -1, np.int64)
    place_R[order.row] = np.arange(len(order.row))
    d = place_R[p]
    t, d = t[d >= 0], d[d >= 0]
    by_index = np.full(truths, FAR, np.int64)
    np.minimum.at(by_index, t, order.rank[d])
    best = order.rank[d] == by_index[t]
    above, tied = np.full(truths, FAR, np.int64), np.ones(truths, np.int64)
    above[t[best]], tied[t[best]] = order.above[d[best]], order.tied[d[best]]
    same = order.above[d] == above[t]
    relevant = np.bincount(t[same], minlength=truths).astype(np.int64)
    return FirstMatches(above, tied, np.maximum(relevant, 1), by_index)


def best_truths(t: Ints, p: Ints, share_M: Floats) -> Ints:
    """Indices into the pairs: for each prediction the truth with the highest IoU, the earlier one on a tie.

    Pairs are in the order of `equal_pairs`, by prediction and then by truth; some may be left out.
    """
    if not len(t):
        return np.zeros(0, np.int64)
    start = np.flatnonzero(_starts(p))
    highest_M = np.repeat(np.maximum.reduceat(share_M, start), np.diff(start, append=len(p)))
    among = np.flatnonzero(share_M == highest_M)
    return among[_starts(p[among])]


# ---------------------------------------------------------------- suppression


def greedy_nms(key_D: Ints, share: Callable[[Ints, Ints], Floats], limit: float) -> Bools:
    """Greedy non-maximum suppression among entries with equal keys, in the order given: keep mask.

    An entry is suppressed if an earlier kept entry overlaps it by more than `limit`. Solved in rounds for all groups at once: an
    entry without an undecided rival above is kept, an entry with a kept rival above is suppressed.
    """
    order = np.argsort(key_D, kind="stable")
    position = np.arange(len(key_D))
    before = position - _last_start(_starts(key_D[order]), position)  # entries of equal key that come earlier
    later = np.repeat(position, before)
    i, j = order[later - 1 - (np.arange(len(later)) - np.repeat(np.cumsum(before) - before, before))], order[later]
    close = share(i, j) > limit
    i, j = i[close], j[close]
    stays, decided = np.zeros(len(key_D), bool), np.zeros(len(key_D), bool)
    while not decided.all():
        beaten = np.zeros(len(key_D), bool)
        beaten[j[stays[i]]] = True
        waiting = np.zeros(len(key_D), bool)
        waiting[j[~decided[i] & ~beaten[i]]] = True
        new = ~decided & ~beaten & ~waiting
        stays |= new
        decided |= new | beaten
        live = ~decided[j]
        i, j = i[live], j[live]
    return stays


# ---------------------------------------------------------------- runs in sorted arrays


def _starts(values: npt.NDArray[np.generic]) -> Bools:
    """True where an entry differs from the one before."""
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return new


def _last_start(new: Bools, position: Ints) -> Ints:
    return np.maximum.accumulate(np.where(new, position, 0)) if len(position) else position
