"""Distances between two sets of vectors: Fréchet's (FID, 1706.08500) and the unbiased kernel one (KID, 1801.01401).

Letters: N, M vectors, D width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError

Floats = npt.NDArray[np.float64]


def frechet_distance(a_ND: Floats, b_MD: Floats) -> float:
    """|mean difference|^2 + trace(A + B - 2 (A B)^(1/2)) of the Gaussians that fit both sets, covariances with N - 1.

    It is biased: of two samples of one distribution it is above 0, by more the fewer vectors there are and the wider they are.
    """
    _check(a_ND, b_MD)
    mean_D = a_ND.mean(0) - b_MD.mean(0)
    first_DD, second_DD = (np.atleast_2d(np.cov(x_ND, rowvar=False)) for x_ND in (a_ND, b_MD))
    # The eigenvalues of A B are those of the symmetric A^(1/2) B A^(1/2), none below 0.
    value_D, vector_DD = np.linalg.eigh(first_DD)
    root_DD = (vector_DD * np.sqrt(value_D.clip(min=0))) @ vector_DD.T
    cross_D = np.linalg.eigvalsh(root_DD @ second_DD @ root_DD)
    return float(mean_D @ mean_D + np.trace(first_DD) + np.trace(second_DD) - 2 * np.sqrt(cross_D.clip(min=0)).sum())


def kernel_distance(a_ND: Floats, b_MD: Floats) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3: of two samples of one distribution 0 on average, now and
    then below."""
    _check(a_ND, b_MD)
    width, (n, m) = a_ND.shape[1], (len(a_ND), len(b_MD))
    own_NN, other_MM, cross_NM = ((x @ y.T / width + 1) ** 3 for x, y in ((a_ND, a_ND), (b_MD, b_MD), (a_ND, b_MD)))
    within = (own_NN.sum() - np.trace(own_NN)) / (n * (n - 1)) + (other_MM.sum() - np.trace(other_MM)) / (m * (m - 1))
    return float(within - 2 * cross_NM.mean())


def _check(a_ND: Floats, b_MD: Floats) -> None:
    if min(len(a_ND), len(b_MD)) < 2 or a_ND.shape[1:] != b_MD.shape[1:]:
        raise ShapeError(f"sets of vectors {list(a_ND.shape)} and {list(b_MD.shape)} (expected two or more of one width in both)")
