"""Matching of predicted to true groups in a pair of pictures, and MC-Bench's released way of matching.

A text such as "people who do the same in both pictures" has groups whose numbers mean nothing. The best renaming is the one with the
highest mean overlap, where the boxes of a group are paired within each picture so that their overlaps sum highest.

Letters: N boxes found, M true boxes.
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
"""The number of the group that only texts with several groups have."""
MOST = 8
"""Groups of one pair that are tried in every order."""


def mean_overlap(pair: Sequence[ImageEvaluation], names: Mapping[int, int]) -> float:
    """Mean IoU of paired boxes, where predicted group g stands for true group names[g]; 0 where nothing is paired."""
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
    """For each predicted group of a pair the true one that it stands for, the first of equally good ones. Predicted groups that are left
    over get numbers that no true group of the pair has.

    Raises DataError for more groups than can be tried.
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
    """Evaluation of a picture with its predicted groups renumbered, all at once."""
    return replace(picture, class_N=np.array([names.get(int(number), int(number)) for number in picture.class_N], np.int64))


def align_groups(pairs: Sequence[Sequence[ImageEvaluation]]) -> list[list[ImageEvaluation]]:
    """Pairs with predicted groups renumbered by the best matching, where the truth has several groups."""
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

    It begins from the original predictions for each picture that has a group 2, so that the renaming of the last such picture alone takes
    effect; numbers are changed one after the other, so that 1 -> 2 and then 2 -> 1 make all of them 1; predicted groups are taken to be
    numbered from 1; and with more of them than true ones nothing is renamed. `ids` are those of the pictures, in whose order it goes. Where
    no picture has a group 2 it fails; here nothing is renamed.
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
