"""Moment retrieval scores: temporal IoU and recall at k, as Ego4D's natural language queries (Grauman et al., 2022, 2110.07058).

A window counts where its IoU is above the threshold, not at it. A question without a window counts, as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError

Window = tuple[float, float]
Floats = npt.NDArray[np.float64]
RANKS, THRESHOLDS = (1, 5), (0.3, 0.5)


def temporal_iou(windows: Sequence[Window], truth: Window) -> Floats:
    """[P]: the IoU of each window with the true one; 0 where both have no length.

    >>> temporal_iou([(0, 10), (5, 15), (20, 30)], (0, 10)).round(3).tolist()
    [1.0, 0.333, 0.0]
    """
    start_P, end_P = np.array(windows, float).reshape(-1, 2).T
    inside_P = np.maximum(0.0, np.minimum(end_P, truth[1]) - np.maximum(start_P, truth[0]))
    union_P = (end_P - start_P) + (truth[1] - truth[0]) - inside_P
    iou_P: Floats = np.divide(inside_P, union_P, out=np.zeros_like(inside_P), where=union_P > 0)
    return iou_P


def recalls(
    windows: Sequence[Sequence[Window]],
    truths: Sequence[Window],
    *,
    ranks: Sequence[int] = RANKS,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """Means over questions: "r@1/0.3" is the share whose first window has an IoU above .3, "iou" the mean IoU of first windows."""
    if not truths:
        raise DataError("there is nothing to score: no question has a true window", expected="one or more")
    metrics: dict[str, float] = {}
    ious = [temporal_iou(some, truth) for some, truth in zip(windows, truths, strict=True)]
    for rank in ranks:
        for threshold in thresholds:
            hits = [bool((iou_P[:rank] > threshold).any()) for iou_P in ious]
            metrics[f"r@{rank}/{threshold:g}"] = float(np.mean(hits))
    metrics["iou"] = float(np.mean([iou_P[0] if len(iou_P) else 0.0 for iou_P in ious]))
    return metrics
