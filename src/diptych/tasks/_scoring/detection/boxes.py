"""Boxes against boxes, or masks against masks, and their average precision as COCO and LVIS define it.

AP of a class at an overlap t: predictions in falling score, of all images together, each answering the true box of its image that
overlaps most among those not yet answered, t at least; precision at recall 0, .01, ... 1 is the best at that recall or beyond; the mean.

What implementations get wrong: 100 predictions an image is 100 *of each class*; equal overlaps go to the later box; a sort across images
that is not stable; predictions of a class that nobody looked for in an image (LVIS) counted as wrong; crowds taken for true boxes.

Letters: N predictions, M true boxes, T overlaps, K classes, R recalls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.data.masks import decode

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
OVERLAPS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0.0, 1.0, 101)


def overlaps(one_N4: npt.ArrayLike, other_M4: npt.ArrayLike) -> Floats:
    """[N, M] IoU of xyxy boxes in pixels, half-open; 0 where neither has an area."""
    one, other = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (one_N4, other_M4))
    side_NM2 = np.minimum(one[:, None, 2:], other[None, :, 2:]) - np.maximum(one[:, None, :2], other[None, :, :2])
    shared_NM = side_NM2.clip(0).prod(-1)
    area_N, area_M = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other))
    union_NM = area_N[:, None] + area_M[None] - shared_NM
    found: Floats = np.divide(shared_NM, union_NM, out=np.zeros_like(shared_NM), where=union_NM > 0)
    return found


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of all images in one list: image_N and class_N are numbers, score_N is unread for true ones.

    code_N  COCO codes of masks, which then stand in place of the boxes; None: boxes overlap
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
    found: Boxes,
    *,
    classes: int,
    thresholds: Floats = OVERLAPS,
    per_image: int = 100,
    per_class: int = 0,
    judged: Collection[tuple[int, int]] | None = None,
    partial: Collection[tuple[int, int]] = (),
    crowds: Boxes | None = None,
) -> Floats:
    """[T, K], NaN for a class without a true box.

    per_image   predictions of a class in an image that count, the best; 0: all (LVIS "fixed")
    per_class   predictions of a class in all images that count, the best (LVIS "fixed": 10,000); 0: all
    judged      (image, class) that somebody looked for, found or not: predictions elsewhere do not count (LVIS); None: all
    partial     (image, class) of which not every box is drawn: predictions without a true box do not count (LVIS)
    crowds      boxes around many at once (COCO's iscrowd): no true boxes, and predictions that lie in one do not count
    """
    out = np.full((len(thresholds), classes), np.nan)
    looked, open_ = None if judged is None else set(judged), set(partial)
    for number in range(classes):
        mine, theirs = true.of(true.class_N == number), found.of(found.class_N == number)
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
    found: Boxes,
    *,
    thresholds: Floats = OVERLAPS,
    per_image: int = 100,
    per_class: int = 0,
    partial: Collection[int] = (),
    crowds: Boxes | None = None,
) -> tuple[Floats, Floats]:
    """ap_T and recall_T of one class, whatever `class_N` says; NaN without a true box. Arguments as for `average_precision`."""
    if not len(true.image_N):
        return np.full(len(thresholds), np.nan), np.full(len(thresholds), np.nan)
    found = _best(found, per_image, per_class)
    hit_TN = _match_boxes(true, found, thresholds)
    ignored_TN = ~hit_TN & np.isin(found.image_N, list(partial))
    if crowds is not None and len(crowds.image_N):
        ignored_TN |= ~hit_TN & _within(crowds, found, thresholds)
    ap_T = [_interpolated(hit_N[~ignored_N], len(true.image_N)) for hit_N, ignored_N in zip(hit_TN, ignored_TN, strict=True)]
    return np.array(ap_T), hit_TN.sum(1) / len(true.image_N)


def _best(found: Boxes, per_image: int, per_class: int) -> Boxes:
    """In the order in which they are counted: falling score, on a tie the earlier image, then the earlier row."""
    order = np.lexsort((np.arange(len(found.score_N)), found.image_N, -found.score_N))
    if per_image:
        place = np.zeros(len(order), np.int64)
        seen: dict[int, int] = {}
        for row, image in enumerate(found.image_N[order].tolist()):
            place[row] = seen.get(image, 0)
            seen[image] = place[row] + 1
        order = order[place < per_image]
    return found.of(order[:per_class] if per_class else order)


def _match_boxes(true: Boxes, found: Boxes, thresholds: Floats) -> Bools:
    """hit_TN: which predictions have a true box."""
    hit_TN = np.zeros((len(thresholds), len(found.score_N)), bool)
    for rows, truths in _by_image(found, true):
        iou_NM = _overlaps(found.of(rows), true.of(truths))
        for t, threshold in enumerate(thresholds):
            free = np.ones(len(truths), bool)
            for row, iou_M in zip(rows, iou_NM, strict=True):
                best_M = np.where(free, iou_M, -1.0)
                last = len(best_M) - 1 - int(best_M[::-1].argmax())  # of equal overlaps the later
                if best_M[last] >= min(threshold, 1 - 1e-10):
                    free[last] = False
                    hit_TN[t, row] = True
    return hit_TN


def _within(crowds: Boxes, found: Boxes, thresholds: Floats) -> Bools:
    """[T, N]: predictions of which so large a share lies in a crowd."""
    within_TN = np.zeros((len(thresholds), len(found.score_N)), bool)
    for rows, around in _by_image(found, crowds):
        share_NM = _shares(found.of(rows), crowds.of(around))
        within_TN[:, rows] = share_NM.max(1)[None] >= np.minimum(thresholds, 1 - 1e-10)[:, None]
    return within_TN


def _overlaps(found: Boxes, true: Boxes) -> Floats:
    """[N, M] IoU of the masks of one image where there are masks, else of the boxes."""
    if found.code_N is None or true.code_N is None:
        return overlaps(found.box_N4, true.box_N4)
    shared_NM, area_N, area_M = shared_pixels(found.code_N, true.code_N)
    union_NM = area_N[:, None] + area_M[None] - shared_NM
    iou_NM: Floats = np.divide(shared_NM, union_NM, out=np.zeros_like(shared_NM), where=union_NM > 0)
    return iou_NM


def _shares(found: Boxes, around: Boxes) -> Floats:
    """[N, M]: the share of each prediction that lies within, of masks where there are masks."""
    if found.code_N is not None and around.code_N is not None:
        shared_NM, area_N, _ = shared_pixels(found.code_N, around.code_N)
    else:
        one_N4, other_M4 = found.box_N4, around.box_N4
        low_NM2 = np.maximum(one_N4[:, None, :2], other_M4[None, :, :2])
        shared_NM = (np.minimum(one_N4[:, None, 2:], other_M4[None, :, 2:]) - low_NM2).clip(0).prod(-1)
        area_N = (one_N4[:, 2:] - one_N4[:, :2]).prod(1)
    area_N1 = area_N[:, None]
    share_NM: Floats = np.divide(shared_NM, area_N1, out=np.zeros_like(shared_NM), where=area_N1 > 0)
    return share_NM


def shared_pixels(one_N: npt.NDArray[np.object_], other_M: npt.NDArray[np.object_]) -> tuple[Floats, Floats, Floats]:
    """Pixels that masks of one image share, [N, M], and the pixels of each, [N] and [M]. A pixel is a bit here."""
    one_NP, other_MP = (np.stack([np.packbits(decode(code)) for code in codes]) for codes in (one_N, other_M))
    shared_NM = np.stack([np.bitwise_count(one_P & other_MP).sum(1, dtype=np.int64) for one_P in one_NP])
    area_N, area_M = (np.bitwise_count(masks).sum(1, dtype=np.int64) for masks in (one_NP, other_MP))
    return shared_NM.astype(np.float64), area_N.astype(np.float64), area_M.astype(np.float64)


def _by_image(found: Boxes, other: Boxes) -> Iterator[tuple[Ints, Ints]]:
    """Rows of predictions and of other boxes of each image that has both."""
    if not len(found.image_N):
        return
    order, those = np.argsort(found.image_N, kind="stable"), np.argsort(other.image_N, kind="stable")
    images, starts = np.unique(found.image_N[order], return_index=True)
    low, high = (np.searchsorted(other.image_N[those], images, side=side) for side in ("left", "right"))
    for rows, start, stop in zip(np.split(order, starts[1:]), low.tolist(), high.tolist(), strict=True):
        if stop > start:
            yield rows, those[start:stop]


def _interpolated(hit_N: Bools, positives: int) -> float:
    right_N = np.cumsum(hit_N)
    recall_N, precision_N = right_N / positives, right_N / np.arange(1, len(hit_N) + 1)
    envelope_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    at_R = np.searchsorted(recall_N, RECALLS, side="left")
    return float(np.append(envelope_N, 0.0)[np.minimum(at_R, len(hit_N))].mean())
