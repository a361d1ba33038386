"""Adaptive classification: a short prefix answers where it is sure, else the next longer one (Matryoshka, 2205.13147, section 4.2.1).

Thresholds are found one after the other, as the released code does: of two neighbouring widths alone, the least of a hundred thresholds
from 0.1 to 1 at which the pair is right most often. The cascade then asks from the shortest width on, and the first whose confidence
(the highest softmax share of a class) is above its threshold answers; the last one always does.

Letters: N items, M widths from the shortest to the longest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError

Floats = npt.NDArray[np.float64]
GRID: Floats = np.linspace(0.1, 1, 100)


def thresholds(confidence_NM: Floats, right_NM: Floats) -> Floats:
    """One threshold for each width but the last, [M - 1]. right_NM: what each answer counts as, 1 where it is right."""
    _checked(confidence_NM, right_NM)
    chosen = []
    for short in range(confidence_NM.shape[1] - 1):
        sure_NT = confidence_NM[:, short, None] > GRID
        score_T = np.where(sure_NT, right_NM[:, short, None], right_NM[:, short + 1, None]).sum(0)
        chosen.append(GRID[np.flatnonzero(score_T == score_T.max())[0]])
    return np.array(chosen, np.float64)


def chosen_widths(confidence_NM: Floats, threshold_M: Floats) -> npt.NDArray[np.int64]:
    """Index of the width that answers each item: the first that is surer than its threshold, else the last."""
    sure_NM = np.concatenate([confidence_NM[:, :-1] > threshold_M, np.ones((len(confidence_NM), 1), bool)], axis=1)
    width_N: npt.NDArray[np.int64] = sure_NM.argmax(1)
    return width_N


def _checked(confidence_NM: Floats, right_NM: Floats) -> None:
    if confidence_NM.shape != right_NM.shape or confidence_NM.ndim != 2 or confidence_NM.shape[1] < 2 or not len(confidence_NM):
        shapes = f"{list(confidence_NM.shape)} and {list(right_NM.shape)}"
        raise ShapeError(f"confidences and answers must be [N, M] alike, of an item or more and two widths or more; got {shapes}")
