"""Matches predicted to true groups in a pair of images, and reproduces MC-Bench's released matching.

A text such as "people who do the same in both pictures" has groups with arbitrary ids. The best assignment of ids is the one with
the highest mean IoU, where the boxes of a group are paired within each image to maximise the sum of IoUs.

Letters: N predicted boxes, M true boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from diptych.core.box_iou import box_iou
from diptych.core.errors import DataError
from diptych.tasks._scoring.detection.box_precision import ImageEvaluation

SECOND = 2
"""Id of the second group, which only texts with several groups have."""
MOST = 8
"""Maximum number of groups of a pair: all permutations are tried."""


def mean_overlap(pair: Sequence[ImageEvaluation], names: Mapping[int, int]) -> float:
    """Mean IoU of paired boxes, where predicted group g is assigned to true group names[g]; 0 if nothing is paired."""
    shares: list[float] = []
    for picture in pair:
        for predicted, true in names.items():
            predicted_rows, true_rows = picture.class_N == predicted, picture.class_M == true
            share_NM = box_iou(picture.found_N4[predicted_rows], picture.true_M4[true_rows], crowd_M=picture.crowd_M[true_rows])
            if share_NM.size:
                rows, columns = linear_sum_assignment(-share_NM)
                shares += share_NM[rows, columns].tolist()
    return sum(shares) / len(shares) if shares else 0.0


def match_groups(pair: Sequence[ImageEvaluation]) -> dict[int, int]:
    """Maps each predicted group of a pair to a true group; the first of equally good assignments. Unmatched predicted groups get
    ids that no true group of the pair has.

    Raises DataError for too many groups to try all permutations.
    """
    true = sorted({int(number) for picture in pair for number in picture.class_M})
    predicted = sorted({int(number) for picture in pair for number in picture.class_N})
    if max(len(true), len(predicted)) > MOST:
        raise DataError(
            f"{len(predicted)} predicted and {len(true)} true groups in one pair", field="category_id", expected=f"at most {MOST}"
        )
    if len(predicted) <= len(true):
        choices = [dict(zip(predicted, order, strict=True)) for order in itertools.permutations(true, len(predicted))]
    else:
        choices = [dict(zip(order, true, strict=True)) for order in itertools.permutations(predicted, len(true))]
    best = max(choices, key=lambda names: mean_overlap(pair, names), default={})
    free = itertools.count(1 + max([0, *true, *predicted]))
    return {number: best.get(number) or next(free) for number in predicted}


def renumber_groups(picture: ImageEvaluation, names: Mapping[int, int]) -> ImageEvaluation:
    """Evaluation of an image with its predicted groups renumbered simultaneously."""
    return replace(picture, class_N=np.array([names.get(int(number), int(number)) for number in picture.class_N], np.int64))


def align_groups(pairs: Sequence[Sequence[ImageEvaluation]]) -> list[list[ImageEvaluation]]:
    """Pairs with predicted groups renumbered by the best matching, if the truth has several groups."""
    out = []
    for pair in pairs:
        several = len({int(number) for picture in pair for number in picture.class_M}) > 1
        names = match_groups(pair) if several else {}
        out.append([renumber_groups(picture, names) for picture in pair])
    return out


def align_groups_as_released(
    pairs: Sequence[Sequence[ImageEvaluation]], ids: Sequence[Sequence[int]]
) -> list[list[ImageEvaluation]]:
    """Group matching as the published evaluator does it.

    It restarts from the original predictions for each image that has a group 2, so only the renaming of the last such image takes
    effect; ids are changed one after the other, so 1 -> 2 and then 2 -> 1 turns all of them into 1; predicted groups are assumed
    to be numbered from 1; and if there are more of them than true ones nothing is renamed. `ids` are those of the images, which
    are processed in that order. If no image has a group 2 the released code crashes; here nothing is renamed.
    """
    position = {number: (row, side) for row, pair in enumerate(ids) for side, number in enumerate(pair)}
    several = [number for number, (row, side) in position.items() if SECOND in pairs[row][side].class_M.tolist()]
    out = [list(pair) for pair in pairs]
    order = list(set(several))
    if not order:
        return out
    row, side = position[order[-1]]
    pair = [pairs[row][side], pairs[row][1 - side]]
    true = list({int(number) for picture in pair for number in picture.class_M})
    predicted = list({int(number) for picture in pair for number in picture.class_N})
    choices = [dict(enumerate(names, start=1)) for names in itertools.permutations(true, len(predicted))]
    chosen = max(choices, key=lambda names: mean_overlap(pair, names), default={})
    for old, new in chosen.items():
        out[row] = [renumber_groups(picture, {old: new}) for picture in out[row]]
    return out
