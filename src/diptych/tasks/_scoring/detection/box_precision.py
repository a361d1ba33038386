"""Average precision of boxes at one overlap, as COCO counts it: 101 recalls, 100 boxes of a class in a picture, crowds left out.

A draw of groups changes how often a picture counts and never which box is a hit, so matching is done once.

Letters: N boxes found, M true boxes, K classes, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Boxes of one class in one picture that count, the best ones."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Seen:
    """One picture: true boxes with their class and whether they are crowds, and found boxes with class and score. Boxes are xyxy pixels;
    `group` is the unit of resampling."""

    true_M4: Floats
    class_M: npt.NDArray[np.int64]
    crowd_M: npt.NDArray[np.bool_]
    found_N4: Floats
    class_N: npt.NDArray[np.int64]
    score_N: Floats
    group: int = 0


def overlaps(one_N4: Floats, other_M4: Floats, crowd_M: npt.NDArray[np.bool_] | None = None) -> Floats:
    """IoU [N, M]; with a crowd the share of the found box that lies in it."""
    low_NM2 = np.maximum(one_N4[:, None, :2], other_M4[None, :, :2])
    high_NM2 = np.minimum(one_N4[:, None, 2:], other_M4[None, :, 2:])
    inside_NM = np.prod(np.clip(high_NM2 - low_NM2, 0, None), axis=2)
    area_N, area_M = (np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (one_N4, other_M4))
    whole_NM = area_N[:, None] + area_M[None] - inside_NM
    if crowd_M is not None:
        whole_NM = np.where(crowd_M[None], area_N[:, None], whole_NM)
    shares: Floats = np.divide(inside_NM, whole_NM, out=np.zeros_like(inside_NM), where=whole_NM > 0)
    return shares


@dataclass(frozen=True, slots=True)
class _Class:
    """The boxes found of one class, best first: hit or not, group; and how many true boxes each group has."""

    hit_N: npt.NDArray[np.bool_]
    group_N: npt.NDArray[np.int64]
    positives_G: Floats


def average_precisions(
    pictures: Sequence[Seen], classes: Sequence[int], *, overlap: float = 0.5, weight_RG: Floats | None = None
) -> Floats:
    """[R, K] with a draw a row: how often each group counts (None: one row, every group once). NaN for a class without a true box."""
    groups = 1 + max((picture.group for picture in pictures), default=0) if weight_RG is None else weight_RG.shape[1]
    weights = np.ones((1, groups)) if weight_RG is None else weight_RG
    kept = [_match_class(pictures, number, overlap, groups) for number in classes]
    return np.array([[_precision(one, weight_G) for one in kept] for weight_G in weights]).reshape(len(weights), len(classes))


def _match_class(pictures: Sequence[Seen], number: int, overlap: float, groups: int) -> _Class:
    hits, scores, owners = [], [], []
    positives_G = np.zeros(groups)
    for picture in pictures:
        true, found = picture.class_M == number, np.flatnonzero(picture.class_N == number)
        order = found[np.argsort(-picture.score_N[found], kind="stable")][:MOST]
        crowd_M = picture.crowd_M[true]
        positives_G[picture.group] += float((~crowd_M).sum())
        share_NM = overlaps(picture.found_N4[order], picture.true_M4[true], crowd_M)
        hit_N, ignored_N = _pairs(share_NM, crowd_M, overlap)
        hits.append(hit_N[~ignored_N])
        scores.append(picture.score_N[order][~ignored_N])
        owners.append(np.full(int((~ignored_N).sum()), picture.group))
    if not hits:
        return _Class(np.zeros(0, np.bool_), np.zeros(0, np.int64), positives_G)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Class(np.concatenate(hits)[order], np.concatenate(owners).astype(np.int64)[order], positives_G)


def _pairs(
    share_NM: Floats, crowd_M: npt.NDArray[np.bool_], overlap: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Best score first, each box takes the free true box that it overlaps most; one that finds none but a crowd is left out."""
    hit_N, ignored_N = (np.zeros(len(share_NM), np.bool_) for _ in range(2))
    taken_M = np.zeros(len(crowd_M), np.bool_)
    for row, share_M in enumerate(share_NM):
        for crowd in (False, True):
            may_M = (crowd_M == crowd) & (share_M >= min(overlap, 1 - 1e-10)) & (~taken_M | crowd_M)
            if may_M.any():
                # Of equal overlaps the last one, as COCO goes through them.
                best = len(share_M) - 1 - int(np.argmax(np.where(may_M, share_M, -1.0)[::-1]))
                taken_M[best] = True
                hit_N[row], ignored_N[row] = not crowd, crowd
                break
    return hit_N, ignored_N


def _precision(one: _Class, weight_G: Floats) -> float:
    positives = float(one.positives_G @ weight_G)
    if not positives:
        return float("nan")
    weight_N = weight_G[one.group_N]
    hit_N, found_N = np.cumsum(weight_N * one.hit_N), np.cumsum(weight_N)
    if not len(hit_N):
        return 0.0
    recall_N, precision_N = hit_N / positives, hit_N / np.maximum(found_N, np.spacing(1))
    envelope_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    place = np.searchsorted(recall_N, RECALLS, side="left")
    return float(np.append(envelope_N, 0.0)[np.minimum(place, len(envelope_N))].mean())
