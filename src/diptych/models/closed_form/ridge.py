"""Ridge regression whose penalty is chosen by generalised cross-validation (Golub, Heath, Wahba, 1979).

Letters: N rows, D inputs, V outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
PENALTIES = 10.0 ** np.arange(-6.0, 1.1, 0.5)
"""As shares of the largest eigenvalue of the inputs' covariance."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """Linear map of centred inputs: (x - input_mean) @ weight + output_mean."""

    weight_DV: Floats
    input_mean_D: Floats
    output_mean_V: Floats
    penalty: float

    def __call__(self, input_ND: Floats) -> Floats:
        return np.asarray((input_ND - self.input_mean_D) @ self.weight_DV + self.output_mean_V, np.float32)


def fit_ridge(input_ND: Floats, output_NV: Floats, penalties: npt.NDArray[np.float64] = PENALTIES) -> Ridge:
    """Fits all outputs with one penalty, by the smaller of the two Gram matrices."""
    mean_D, mean_V = input_ND.mean(0), output_NV.mean(0)
    x_ND, y_NV = input_ND - mean_D, output_NV - mean_V
    rows, width = x_ND.shape
    if width <= rows:
        value_K, right_DK = np.linalg.eigh(x_ND.T @ x_ND)
        value_K = np.maximum(value_K, 0)
        scaled_KV = right_DK.T @ (x_ND.T @ y_NV)  # singular values times the outputs in the basis of the inputs
    else:
        value_K, left_NK = np.linalg.eigh(x_ND @ x_ND.T)
        value_K = np.maximum(value_K, 0)
        root_K = np.sqrt(np.maximum(value_K, value_K.max() * 1e-9 + 1e-12))
        right_DK = (x_ND.T @ left_NK) / root_K
        scaled_KV = root_K[:, None] * (left_NK.T @ y_NV)
    largest = max(float(value_K.max()), 1e-12)
    explained_K = (scaled_KV.astype(np.float64) ** 2).sum(1) / np.maximum(value_K, largest * 1e-9)
    total = float((y_NV.astype(np.float64) ** 2).sum())
    scores = []
    for share in penalties:
        shrunk_K = value_K / (value_K + share * largest)
        residual = total - float(((2 * shrunk_K - shrunk_K**2) * explained_K).sum())
        scores.append(residual / (rows - 1 - min(float(shrunk_K.sum()), rows - 1.5)) ** 2)
    penalty = float(penalties[int(np.argmin(scores))]) * largest
    weight_DV = right_DK @ (scaled_KV / (value_K + penalty)[:, None])
    return Ridge(weight_DV.astype(np.float32), mean_D, mean_V, penalty)
