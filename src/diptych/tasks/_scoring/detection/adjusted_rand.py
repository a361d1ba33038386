"""Adjusted Rand index of segmentations (Hubert and Arabie, 1985), over the pixels of objects alone.

Letters: N pixels, K true masks, S slots.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError

Compat = Literal["none", "ocrl"]
"""ocrl: OCR-RL's release appends the mask of all objects to the slots, so that with soft masks every pixel of an object falls to it."""


def adjusted_rand(true_N: npt.ArrayLike, predicted_N: npt.ArrayLike) -> float:
    """1 for equal partitions, about 0 for independent ones. Two partitions that are both trivial (one part, or all apart) are equal: 1."""
    true, predicted = (np.unique(np.asarray(one), return_inverse=True)[1].reshape(-1) for one in (true_N, predicted_N))
    if true.shape != predicted.shape:
        raise ShapeError(f"partitions of {len(true)} and {len(predicted)} pixels (expected equally many)")
    table = np.zeros((true.max(initial=-1) + 1, predicted.max(initial=-1) + 1))
    np.add.at(table, (true, predicted), 1)
    together, rows, columns = (float((counts * (counts - 1) / 2).sum()) for counts in (table, table.sum(1), table.sum(0)))
    total = len(true) * (len(true) - 1) / 2
    expected = rows * columns / total if total else 0.0
    most = (rows + columns) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def foreground_ari(true_KHW: npt.NDArray[np.bool_], slot_SHW: npt.NDArray[np.float64], *, compat: Compat = "none") -> float:
    """ARI over the pixels of objects of the slot of largest mask; pixels of several objects count for the first of them.

    true_KHW  masks of the objects, the background left out
    slot_SHW  soft masks of the slots
    NaN without a pixel of an object. With compat="ocrl", over all pixels, against the appended mask.
    """
    foreground_HW = np.asarray(true_KHW.any(0))
    if compat == "ocrl":
        true_HW = np.concatenate([true_KHW, ~foreground_HW[None]]).argmax(0)
        appended = np.concatenate([slot_SHW * foreground_HW, foreground_HW[None].astype(np.float64)])
        return adjusted_rand(true_HW.reshape(-1), appended.argmax(0).reshape(-1))
    if not foreground_HW.any():
        return float("nan")
    return adjusted_rand(true_KHW.argmax(0)[foreground_HW], slot_SHW.argmax(0)[foreground_HW])
