"""PCA whitening, as TL;DR does before it clusters.  Letters: N rows, D width, K directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Unit


@dataclass(frozen=True)
class Whitening:
    """Directions of the largest variance of some rows, to be applied to these or others.

    mean_D        mean of the rows
    direction_KD  directions of norm 1, the strongest first; None where the rows do not vary
    scale_K       factor of each
    """

    mean_D: npt.NDArray[np.float64]
    direction_KD: npt.NDArray[np.float64] | None
    scale_K: npt.NDArray[np.float64]

    @classmethod
    def fitted(cls, value_ND: npt.NDArray[np.float32], width: int = 256, *, power: float = -0.5) -> Self:
        """Of rows [N, D]; see `whitened`."""
        mean_D = value_ND.mean(0, dtype=np.float64)
        centred = value_ND.astype(np.float64) - mean_D
        _, singular, direction_KD = np.linalg.svd(centred, full_matrices=False)
        variance_K = singular**2 / max(1, len(centred) - 1)
        there = np.flatnonzero(variance_K > 1e-10 * max(float(variance_K[:1].sum()), 1e-300))[:width]
        if not len(there):
            return cls(mean_D, None, np.ones(1))
        direction_KD = direction_KD[there]
        sign_K = np.sign(direction_KD[np.arange(len(there)), np.abs(direction_KD).argmax(1)])
        return cls(mean_D, direction_KD * sign_K[:, None], variance_K[there] ** power)

    def __call__(self, value_ND: npt.NDArray[np.float32]) -> Unit:
        """Rows in these directions, of norm 1. float32 [N, K]"""
        if self.direction_KD is None:
            return np.ones((len(value_ND), 1), np.float32)
        made = (value_ND.astype(np.float64) - self.mean_D) @ self.direction_KD.T * self.scale_K
        unit_NK: Unit = (made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return unit_NK


def whitened(value_ND: npt.NDArray[np.float32], width: int = 256, *, power: float = -0.5) -> Unit:
    """Rows in their `width` strongest directions, each multiplied by its variance to the `power`, then of norm 1. float32 [N, K]

    Directions without variance are left out. The sign of a direction is fixed by its largest entry, so that equal data give equal
    numbers.
    """
    return Whitening.fitted(value_ND, width, power=power)(value_ND)
