"""Intersection over union of xyxy boxes in NumPy: pairwise and row by row. For tensors in losses see `objectives.boxes.boxes`.

What implementations get wrong: 0 / 0 for two boxes without area (0 here); an intersection whose two negative sides multiply to a positive
area; boxes that count their last pixel in, mixed with half-open ones.

Letters: N, M boxes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def box_iou(one_N4: npt.ArrayLike, other_M4: npt.ArrayLike, *, crowd_M: npt.NDArray[np.bool_] | None = None) -> Floats:
    """IoU [N, M] of every half-open xyxy box with every other; 0 where neither has an area.

    crowd_M  True for a box around many at once (COCO's iscrowd): there the share of the first box that lies in it

    >>> box_iou([[0, 0, 4, 4]], [[2, 0, 6, 4], [5, 5, 6, 6]]).round(3).tolist()
    [[0.333, 0.0]]
    """
    one, other = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (one_N4, other_M4))
    side_NM2 = np.minimum(one[:, None, 2:], other[None, :, 2:]) - np.maximum(one[:, None, :2], other[None, :, :2])
    shared_NM = side_NM2.clip(0).prod(-1)
    area_N, area_M = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other))
    whole_NM = area_N[:, None] + area_M[None] - shared_NM
    if crowd_M is not None:
        whole_NM = np.where(crowd_M[None], area_N[:, None], whole_NM)
    iou_NM: Floats = np.divide(shared_NM, whole_NM, out=np.zeros_like(shared_NM), where=whole_NM > 0)
    return iou_NM


def aligned_box_iou(one_N4: Floats, other_N4: Floats, *, inclusive: bool = False, touching: bool = True) -> Floats:
    """IoU [N] of xyxy boxes row by row.

    inclusive  the last pixel of a box counts in
    touching   with `inclusive`, boxes that share only their last pixels overlap, too

    >>> aligned_box_iou(np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 0, 6, 4]])).round(3).tolist()
    [0.333]
    """
    extra = 1.0 if inclusive else 0.0
    low_N2 = np.maximum(one_N4[:, :2], other_N4[:, :2])
    side_N2 = np.minimum(one_N4[:, 2:], other_N4[:, 2:]) - low_N2 + extra
    shared_N = np.maximum(side_N2[:, 0], 0.0) * np.maximum(side_N2[:, 1], 0.0)
    if not touching:
        shared_N = np.where((side_N2 > extra).all(axis=1), shared_N, 0.0)
    union_N = _area(one_N4, extra) + _area(other_N4, extra) - shared_N
    iou_N: Floats = np.divide(shared_N, union_N, out=np.zeros(len(shared_N)), where=union_N > 0)
    return iou_N


def _area(box_N4: Floats, extra: float) -> Floats:
    area_N: Floats = (box_N4[:, 2] - box_N4[:, 0] + extra) * (box_N4[:, 3] - box_N4[:, 1] + extra)
    return area_N
