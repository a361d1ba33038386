"""PCA whitening, as TL;DR does before it clusters.  Letters: N rows, D width, K directions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Unit


def whitened(value_ND: npt.NDArray[np.float32], width: int = 256, *, power: float = -0.5) -> Unit:
    """Rows in their `width` strongest directions, each multiplied by its variance to the `power`, then of norm 1. float32 [N, K]

    Directions without variance are left out. The sign of a direction is fixed by its largest entry, so that equal data give equal
    numbers.
    """
    centred = value_ND.astype(np.float64) - value_ND.mean(0, dtype=np.float64)
    _, singular, direction_KD = np.linalg.svd(centred, full_matrices=False)
    variance_K = singular**2 / max(1, len(centred) - 1)
    there = np.flatnonzero(variance_K > 1e-10 * max(float(variance_K[:1].sum()), 1e-300))[:width]
    if not len(there):
        return np.ones((len(value_ND), 1), np.float32)
    direction_KD = direction_KD[there]
    sign_K = np.sign(direction_KD[np.arange(len(there)), np.abs(direction_KD).argmax(1)])
    made = centred @ (direction_KD * sign_K[:, None]).T * variance_K[there] ** power
    unit_NK: Unit = (made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return unit_NK
