"""COCO and LVIS average precision of boxes or masks.

AP of a class at IoU t: predictions of all images in descending score, each matched to the unmatched true box of its image with
the highest IoU of at least t; precision at recall 0, .01, ... 1 is the best at that recall or beyond; AP is the mean.

What implementations get wrong: 100 predictions per image means 100 *per class*; equal IoUs go to the later box; unstable sorting
across images; counting predictions of a class that was not annotated in an image (LVIS) as wrong; counting crowds as true boxes.

Letters: N predictions, M true boxes, T overlaps, K classes, R recalls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.box_iou import box_iou
from diptych.data.masks import decode

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
OVERLAPS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of all images in one list: image_N and class_N are numbers, score_N is unread for true ones.

    code_N  COCO run-length codes of masks, whose overlap is used instead of that of the boxes; None: boxes
    """

    image_N: Ints
    class_N: Ints
    box_N4: Floats
    score_N: Floats
    code_N: npt.NDArray[np.object_] | None = None

    def of(self, rows: npt.NDArray[np.bool_] | Ints) -> Boxes:
        codes = None if self.code_N is None else self.code_N[rows]
        return Boxes(self.image_N[rows], self.class_N[rows], self.box_N4[rows], self.score_N[rows], codes)


def average_precision(
    true: Boxes,
    detections: Boxes,
    *,
    classes: int,
    thresholds: Floats = OVERLAPS,
    per_image: int = 100,
    per_class: int = 0,
    judged: Collection[tuple[int, int]] | None = None,
    partial: Collection[tuple[int, int]] = (),
    crowds: Boxes | None = None,
) -> Floats:
    """Average precision [T, K], NaN for a class without a true box.

    per_image   maximum number of predictions per class and image, the best ones; 0: all (LVIS "fixed")
    per_class   maximum number of predictions per class over all images, the best ones (LVIS "fixed": 10,000); 0: all
    judged      pairs (image, class) that were annotated, with or without boxes; predictions for other pairs are ignored (LVIS); None: all
                pairs
    partial     pairs (image, class) that are not exhaustively annotated: predictions without a true box are ignored (LVIS)
    crowds      boxes around groups (COCO's iscrowd): they are not true boxes, and predictions inside one are ignored
    """
    out = np.full((len(thresholds), classes), np.nan)
    looked, open_ = None if judged is None else set(judged), set(partial)
    for number in range(classes):
        mine, theirs = true.of(true.class_N == number), detections.of(detections.class_N == number)
        if not len(mine.image_N):
            continue
        if looked is not None:
            theirs = theirs.of(np.array([(image, number) in looked for image in theirs.image_N.tolist()], bool))
        out[:, number], _ = precision_and_recall(
            mine,
            theirs,
            thresholds=thresholds,
            per_image=per_image,
            per_class=per_class,
            partial={image for image, kind in open_ if kind == number},
            crowds=None if crowds is None else crowds.of(crowds.class_N == number),
        )
    return out


def precision_and_recall(
    true: Boxes,
    detections: Boxes,
    *,
    thresholds: Floats = OVERLAPS,
    per_image: int = 100,
    per_class: int = 0,
    partial: Collection[int] = (),
    crowds: Boxes | None = None,
) -> tuple[Floats, Floats]:
    """ap_T and recall_T of one class, ignoring `class_N`; NaN without a true box. Arguments as for `average_precision`."""
    if not len(true.image_N):
        return np.full(len(thresholds), np.nan), np.full(len(thresholds), np.nan)
    detections = _best(detections, per_image, per_class)
    hit_TN = _match_boxes(true, detections, thresholds)
    ignored_TN = ~hit_TN & np.isin(detections.image_N, list(partial))
    if crowds is not None and len(crowds.image_N):
        ignored_TN |= ~hit_TN & _within(crowds, detections, thresholds)
    ap_T = [
        interpolated_precision(hit_N[~ignored_N], len(true.image_N)) for hit_N, ignored_N in zip(hit_TN, ignored_TN, strict=True)
    ]
    return np.array(ap_T), hit_TN.sum(1) / len(true.image_N)


def _best(detections: Boxes, per_image: int, per_class: int) -> Boxes:
    """Evaluation order: falling score, on a tie the earlier image, then the earlier row."""
    order = np.lexsort((np.arange(len(detections.score_N)), detections.image_N, -detections.score_N))
    if per_image:
        nth = np.zeros(len(order), np.int64)
        seen: dict[int, int] = {}
        for row, image in enumerate(detections.image_N[order].tolist()):
            nth[row] = seen.get(image, 0)
            seen[image] = nth[row] + 1
        order = order[nth < per_image]
    return detections.of(order[:per_class] if per_class else order)


def _match_boxes(true: Boxes, detections: Boxes, thresholds: Floats) -> Bools:
    """hit_TN: which predictions have a true box."""
    hit_TN = np.zeros((len(thresholds), len(detections.score_N)), bool)
    for rows, truths in _by_image(detections, true):
        iou_NM = _overlaps(detections.of(rows), true.of(truths))
        for t, threshold in enumerate(thresholds):
            hit_TN[t, rows] = greedy_hits(iou_NM, threshold)
    return hit_TN


def greedy_hits(iou_NM: Floats, threshold: float) -> Bools:
    """Mask [N] of the predictions of one image, best first, that match a true box: each takes the free one of highest IoU."""
    hit_N, free_M = np.zeros(len(iou_NM), bool), np.ones(iou_NM.shape[1], bool)
    if not len(free_M):
        return hit_N
    for row, iou_M in enumerate(iou_NM):
        best_M = np.where(free_M, iou_M, -1.0)
        last = len(best_M) - 1 - int(best_M[::-1].argmax())  # the later of equal IoUs
        if best_M[last] >= min(threshold, 1 - 1e-10):
            free_M[last], hit_N[row] = False, True
    return hit_N


def _within(crowds: Boxes, detections: Boxes, thresholds: Floats) -> Bools:
    """Mask [T, N] of predictions whose fraction inside a crowd reaches each threshold."""
    within_TN = np.zeros((len(thresholds), len(detections.score_N)), bool)
    for rows, around in _by_image(detections, crowds):
        share_NM = _shares(detections.of(rows), crowds.of(around))
        within_TN[:, rows] = share_NM.max(1)[None] >= np.minimum(thresholds, 1 - 1e-10)[:, None]
    return within_TN


def _overlaps(detections: Boxes, true: Boxes) -> Floats:
    """IoU [N, M] of one image: of masks if available, else of boxes."""
    if detections.code_N is None or true.code_N is None:
        return box_iou(detections.box_N4, true.box_N4)
    shared_NM, area_N, area_M = shared_pixels(detections.code_N, true.code_N)
    union_NM = area_N[:, None] + area_M[None] - shared_NM
    iou_NM: Floats = np.divide(shared_NM, union_NM, out=np.zeros_like(shared_NM), where=union_NM > 0)
    return iou_NM


def _shares(detections: Boxes, around: Boxes) -> Floats:
    """Fraction [N, M] of each prediction that lies within each crowd, of masks if available."""
    if detections.code_N is None or around.code_N is None:
        return box_iou(detections.box_N4, around.box_N4, crowd_M=np.ones(len(around.box_N4), bool))
    shared_NM, area_N, _ = shared_pixels(detections.code_N, around.code_N)
    area_N1 = area_N[:, None]
    share_NM: Floats = np.divide(shared_NM, area_N1, out=np.zeros_like(shared_NM), where=area_N1 > 0)
    return share_NM


def shared_pixels(one_N: npt.NDArray[np.object_], other_M: npt.NDArray[np.object_]) -> tuple[Floats, Floats, Floats]:
    """Intersections [N, M] of the masks of one image in pixels, and the areas, [N] and [M]. Masks are packed, one bit per
    pixel."""
    one_NP, other_MP = (np.stack([np.packbits(decode(code)) for code in codes]) for codes in (one_N, other_M))
    shared_NM = np.stack([np.bitwise_count(one_P & other_MP).sum(1, dtype=np.int64) for one_P in one_NP])
    area_N, area_M = (np.bitwise_count(masks).sum(1, dtype=np.int64) for masks in (one_NP, other_MP))
    return shared_NM.astype(np.float64), area_N.astype(np.float64), area_M.astype(np.float64)


def _by_image(detections: Boxes, other: Boxes) -> Iterator[tuple[Ints, Ints]]:
    """Rows of predictions and of other boxes by image, for images with both."""
    if not len(detections.image_N):
        return
    order, those = np.argsort(detections.image_N, kind="stable"), np.argsort(other.image_N, kind="stable")
    images, starts = np.unique(detections.image_N[order], return_index=True)
    low, high = (np.searchsorted(other.image_N[those], images, side=side) for side in ("left", "right"))
    for rows, start, stop in zip(np.split(order, starts[1:]), low.tolist(), high.tolist(), strict=True):
        if stop > start:
            yield rows, those[start:stop]


def interpolated_precision(hit_N: Bools, positives: float, weight_N: Floats | None = None) -> float:
    """Mean over 101 recalls of the best precision at that recall or beyond; predictions best first, each counted `weight_N` times."""
    weights = np.ones(len(hit_N)) if weight_N is None else weight_N
    right_N, count_N = np.cumsum(weights * hit_N), np.cumsum(weights)
    recall_N, precision_N = right_N / positives, right_N / np.maximum(count_N, np.spacing(1))
    envelope_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    at_R = np.searchsorted(recall_N, RECALLS, side="left")
    return float(np.append(envelope_N, 0.0)[np.minimum(at_R, len(hit_N))].mean())
