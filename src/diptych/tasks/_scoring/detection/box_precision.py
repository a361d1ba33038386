"""Average precision of boxes at one IoU, as COCO counts it: 101 recalls, 100 boxes of a class in a picture, crowds left out.

A draw of groups changes how often a picture counts and never which box is a hit, so matching is done once.

Letters: N boxes found, M true boxes, K classes, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.box_iou import box_iou
from diptych.tasks._scoring.detection.boxes import greedy_hits, interpolated_precision

MOST = 100
"""Boxes of one class in one picture that count, the best ones."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImageEvaluation:
    """One picture: true boxes with their class and whether they are crowds, and found boxes with class and score. Boxes are xyxy pixels;
    `group` is the unit of resampling."""

    true_M4: Floats
    class_M: npt.NDArray[np.int64]
    crowd_M: npt.NDArray[np.bool_]
    found_N4: Floats
    class_N: npt.NDArray[np.int64]
    score_N: Floats
    group: int = 0


@dataclass(frozen=True, slots=True)
class _ClassMatches:
    """Predicted boxes of one class, best first: hit or not, group; and how many true boxes each group has."""

    hit_N: npt.NDArray[np.bool_]
    group_N: npt.NDArray[np.int64]
    positives_G: Floats


def average_precisions(
    pictures: Sequence[ImageEvaluation], classes: Sequence[int], *, overlap: float = 0.5, weight_RG: Floats | None = None
) -> Floats:
    """[R, K] with a draw a row: how often each group counts (None: one row, every group once). NaN for a class without a true box."""
    groups = 1 + max((picture.group for picture in pictures), default=0) if weight_RG is None else weight_RG.shape[1]
    weights = np.ones((1, groups)) if weight_RG is None else weight_RG
    kept = [_match_class(pictures, number, overlap, groups) for number in classes]
    return np.array([[_precision(one, weight_G) for one in kept] for weight_G in weights]).reshape(len(weights), len(classes))


def _match_class(pictures: Sequence[ImageEvaluation], number: int, overlap: float, groups: int) -> _ClassMatches:
    hits, scores, owners = [], [], []
    positives_G = np.zeros(groups)
    for picture in pictures:
        true, detections = picture.class_M == number, np.flatnonzero(picture.class_N == number)
        order = detections[np.argsort(-picture.score_N[detections], kind="stable")][:MOST]
        crowd_M = picture.crowd_M[true]
        positives_G[picture.group] += float((~crowd_M).sum())
        share_NM = box_iou(picture.found_N4[order], picture.true_M4[true], crowd_M=crowd_M)
        hit_N = greedy_hits(share_NM[:, ~crowd_M], overlap)
        ignored_N = ~hit_N & (share_NM[:, crowd_M] >= min(overlap, 1 - 1e-10)).any(1)
        hits.append(hit_N[~ignored_N])
        scores.append(picture.score_N[order][~ignored_N])
        owners.append(np.full(int((~ignored_N).sum()), picture.group))
    if not hits:
        return _ClassMatches(np.zeros(0, np.bool_), np.zeros(0, np.int64), positives_G)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _ClassMatches(np.concatenate(hits)[order], np.concatenate(owners).astype(np.int64)[order], positives_G)


def _precision(one: _ClassMatches, weight_G: Floats) -> float:
    positives = float(one.positives_G @ weight_G)
    return interpolated_precision(one.hit_N, positives, weight_G[one.group_N]) if positives else float("nan")
