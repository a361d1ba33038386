"""Average precision per class from hits and misses, for the data and for every bootstrap draw at once.

Rules: "11-point" is the mean over recall 0, .1, ... 1 of the best precision at that recall or beyond (PASCAL VOC until 2009);
"area" is the area under the same envelope (VOC since 2010). Recall is compared in integers: 3 of 10 reaches the threshold .3,
which `float_recall=True` denies as published scorers do (0.3 < 3 * 0.1 in floating point). Ties: predictions of one class with
the same score have no order. Under "together" they enter as one block, so a constant scorer gets the precision of a random guess
for any order of the images; "index" takes them row by row, like the sort in published scorers.

Resampling groups only changes how often an image counts, never which of its predictions are hits, so an interval costs two sparse
products and no second matching.

Letters: R predictions, K classes, C groups, D draws, P points of the precision-recall curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from diptych.core.result import Metric
from diptych.tasks._scoring.intervals import group_weights, percentiles

LEADING_BITS = 20  # minimum bits of a score for packed sorting to be faster

Rule = Literal["11-point", "area"]
Ties = Literal["together", "index"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PrecisionRecallCurves:
    """The precision-recall curves of all classes at the points that matter: where a hit (with its tied block) has been counted.

    segment, group       of every prediction that comes before the last hit of its class: the point it counts towards, its group
    hit_segment, hit_group  the same for hits alone
    bounds               [K + 1]: the points of class k are bounds[k] : bounds[k + 1]
    positives_CK         number of true instances of each class in each group
    share_tied           share of predictions whose score equals that of another prediction of the class
    """

    segment: Ints
    group: Ints
    hit_segment: Ints
    hit_group: Ints
    bounds: Ints
    positives_CK: sparse.csr_matrix
    share_tied: float

    @classmethod
    def of(
        cls,
        hit_R: Bools,
        score_R: Floats,
        class_R: Ints,
        group_R: Ints,
        *,
        truth_class: Ints,
        truth_group: Ints,
        classes: int,
        groups: int,
        ties: Ties = "together",
    ) -> Self:
        """`truth_class` and `truth_group` name the class and the group of every true instance."""
        in_order = (class_R[1:] > class_R[:-1]) | ((class_R[1:] == class_R[:-1]) & (score_R[1:] <= score_R[:-1]))
        hit, score, kind, group = hit_R, score_R, class_R, group_R
        if not in_order.all():
            order = by_class(class_R, score_R)
            hit, score, kind, group = hit_R[order], score_R[order], class_R[order], group_R[order]
        rows = np.arange(len(score))
        ends = (
            np.flatnonzero(np.concatenate([(score[1:] != score[:-1]) | (kind[1:] != kind[:-1]), [True]])) if len(rows) else rows
        )
        size = np.diff(ends, prepend=-1)
        last = np.repeat(ends, size) if ties == "together" else rows
        is_point = np.zeros(len(rows), bool)
        is_point[last[hit]] = True
        points = np.flatnonzero(is_point)
        segment = np.cumsum(is_point) - is_point  # points before this row: the one it counts towards, if of the same class
        counted = segment < len(points)
        counted[counted] = kind[points[segment[counted]]] == kind[counted]
        ones = np.ones(len(truth_class))
        return cls(
            segment[counted],
            group[counted],
            segment[last[hit]],
            group[hit],
            np.searchsorted(kind[points], np.arange(classes + 1)),
            sparse.csr_matrix((ones, (truth_group, truth_class)), shape=(groups, classes)),
            float(size[size > 1].sum() / len(rows)) if len(rows) else 0.0,
        )

    def average_precision(self, rule: Rule, *, weight_DC: Floats | None = None, float_recall: bool = False) -> Floats:
        """[D, K], NaN for a class without a true instance. `weight_DC` says how often each draw holds each group; None is [1, K]
        for the data as they are."""
        positive_DK = self._positives(weight_DC)
        seen_DP, found_DP = (
            self._counts(segment, group, weight_DC)
            for segment, group in ((self.segment, self.group), (self.hit_segment, self.hit_group))
        )
        envelope_DP = np.divide(found_DP, seen_DP, out=np.zeros_like(found_DP), where=seen_DP > 0)
        for start, stop in pairwise(self.bounds.tolist()):
            if stop > start + 1:
                backwards = envelope_DP[:, start:stop][:, ::-1]
                np.maximum.accumulate(backwards, axis=1, out=backwards)
        if rule == "11-point":
            value_DK = self._eleven_points(envelope_DP, found_DP, positive_DK, float_recall)
        else:
            value_DK = self._area(envelope_DP, found_DP, positive_DK)
        return np.where(positive_DK > 0, value_DK, np.nan)

    def _eleven_points(self, envelope_DP: Floats, found_DP: Floats, positive_DK: Floats, float_recall: bool) -> Floats:
        """[D, K]: the mean over eleven recalls of the best precision at or beyond them; 0 where a recall is never reached."""
        classes = positive_DK.shape[1]
        class_P = np.repeat(np.arange(classes), np.diff(self.bounds))
        positive_DP = np.maximum(positive_DK[:, class_P], 1.0)
        if float_recall:
            reached_DP = np.searchsorted(np.arange(11) * 0.1, found_DP / positive_DP, side="right") - 1
        else:
            reached_DP = (10 * found_DP // positive_DP).astype(np.int64)
        grid = (np.arange(classes)[:, None] * 11 + np.arange(11)).reshape(-1)
        end = np.repeat(self.bounds[1:], 11)
        value_DK = np.empty(positive_DK.shape)
        for draw, reached_P in enumerate(np.minimum(reached_DP, 10)):
            first = np.searchsorted(class_P * 11 + reached_P, grid)
            precision = np.append(envelope_DP[draw], 0.0)[np.where(first < end, first, len(class_P))]
            value_DK[draw] = precision.reshape(classes, 11).mean(axis=1)
        return value_DK

    def _area(self, envelope_DP: Floats, found_DP: Floats, positive_DK: Floats) -> Floats:
        """[D, K]: the area under the envelope."""
        value_DK = np.zeros(positive_DK.shape)
        some = np.flatnonzero(np.diff(self.bounds))
        step_DP = np.diff(found_DP, axis=1, prepend=0.0)
        step_DP[:, self.bounds[some]] = found_DP[:, self.bounds[some]]
        if len(some):
            value_DK[:, some] = np.add.reduceat(envelope_DP * step_DP, self.bounds[some], axis=1)
        return value_DK / np.maximum(positive_DK, 1.0)

    def _positives(self, weight_DC: Floats | None) -> Floats:
        if weight_DC is None:
            return np.asarray(self.positives_CK.sum(axis=0), np.float64).reshape(1, -1)
        return np.asarray((self.positives_CK.T @ weight_DC.T).T)

    def _counts(self, segment: Ints, group: Ints, weight_DC: Floats | None) -> Floats:
        """[D, P]: how many of these rows stand at or before each point of its class."""
        points = int(self.bounds[-1])
        if weight_DC is None:
            each_DP = np.bincount(segment, minlength=points).astype(np.float64)[None]
        else:
            shape = (points, weight_DC.shape[1])
            each_DP = np.asarray((sparse.csr_matrix((np.ones(len(segment)), (segment, group)), shape=shape) @ weight_DC.T).T)
        running_DP = np.concatenate([np.zeros((len(each_DP), 1)), np.cumsum(each_DP, axis=1)], axis=1)
        before_P = np.repeat(self.bounds[:-1], np.diff(self.bounds))
        counts: Floats = running_DP[:, 1:] - running_DP[:, before_P]
        return counts


def mean_average_precision(
    curves: PrecisionRecallCurves,
    parts: Mapping[str, Bools],
    *,
    rule: Rule,
    draws: int,
    seed: int,
    float_recall: bool = False,
    absent_is_zero: bool = False,
) -> tuple[dict[str, Metric], Floats]:
    """The mean over each named set of classes ([K] masks) with its interval over draws of groups; and [K], the value of each class.

    Without draws there are no intervals. Classes without a true instance, in the data or in a draw, are left out of the mean, or
    count 0 under `absent_is_zero`.
    """

    def means(ap_DK: Floats) -> dict[str, Floats]:
        scored_DK = np.isfinite(ap_DK) | absent_is_zero
        ap_DK = np.nan_to_num(ap_DK)
        sums = {name: (ap_DK[:, part_K].sum(axis=1), scored_DK[:, part_K].sum(axis=1)) for name, part_K in parts.items()}
        return {name: np.divide(s, n, out=np.full(len(s), np.nan), where=n > 0) for name, (s, n) in sums.items()}

    ap_1K = curves.average_precision(rule, float_recall=float_recall)
    value = means(ap_1K)
    groups, classes = curves.positives_CK.shape
    width = max(groups, classes, int(curves.bounds[-1]))
    drawn = []
    for weight_DC in group_weights(groups, draws if groups > 1 else 0, seed, width):
        drawn.append(means(curves.average_precision(rule, weight_DC=weight_DC, float_recall=float_recall)))
    spans = {name: percentiles(np.concatenate([each[name] for each in drawn])) if drawn else () for name in parts}
    return {name: Metric(float(value[name][0]), *spans[name]) for name in parts}, ap_1K[0]


def best_first(score_R: Floats) -> Ints:
    """Indices that sort scores in descending order, ties by row."""
    return by_class(np.zeros(len(score_R), np.int64), score_R)


def by_class(class_R: Ints, score_R: Floats) -> Ints:
    """Indices that sort by class (0 or above), then by descending score, then by row.

    Class, leading bits of the score and row are packed into one integer, since integers sort several times faster than a
    lexicographic sort; the few neighbours that these bits do not distinguish are sorted afterwards.
    """
    row_bits, class_bits = max(len(score_R) - 1, 1).bit_length(), int(class_R.max(initial=0)).bit_length()
    score_bits = 64 - row_bits - class_bits
    if score_bits < LEADING_BITS:
        return np.lexsort((-score_R, class_R)).astype(np.int64)
    prefix = (class_R.astype(np.uint64) << np.uint64(score_bits)) | (_falling(score_R) >> np.uint64(64 - score_bits))
    packed = (prefix << np.uint64(row_bits)) | np.arange(len(score_R), dtype=np.uint64)
    packed.sort()
    order = (packed & np.uint64((1 << row_bits) - 1)).astype(np.int64)
    prefix = packed >> np.uint64(row_bits)
    alike = prefix[1:] == prefix[:-1]
    later = np.flatnonzero(alike)
    if (score_R[order[later + 1]] > score_R[order[later]]).any():
        some = np.flatnonzero(np.concatenate([alike, [False]]) | np.concatenate([[False], alike]))
        order[some] = order[some][np.lexsort((order[some], -score_R[order[some]], prefix[some]))]
    return order


def _falling(score_R: Floats) -> npt.NDArray[np.uint64]:
    """Integer sort keys in the reverse order of the scores, from the bits of a double: flipped below zero, above all of them from
    zero on."""
    bits = (score_R + 0.0).view(np.uint64)  # + 0.0 turns -0.0 into 0.0
    sign = np.uint64(1 << 63)
    falling: npt.NDArray[np.uint64] = np.where(bits & sign, bits, ~(bits | sign))
    return falling


def first_claims(claimed_R: Ints, score_R: Floats) -> Bools:
    """True for the best-scored prediction of each matched truth, the earlier row on a tie; -1 matches nothing."""
    hit_R = np.zeros(len(claimed_R), bool)
    rows = np.flatnonzero(claimed_R >= 0)
    rows = rows[best_first(score_R[rows])]
    hit_R[rows[np.unique(claimed_R[rows], return_index=True)[1]]] = True
    return hit_R
