"""Fréchet distance of two sets of vectors, each as a normal distribution (Dowson and Landau, 1982).

Letters: N rows of a set, D dimensions of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Frechet:
    """Terms of the Fréchet distance |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^1/2, covariances unbiased.

    means       squared distance of the means
    first, second   traces of the covariances
    root        tr (S_a S_b)^1/2
    product     tr S_a S_b, which one release takes in place of the root
    """

    means: float
    first: float
    second: float
    root: float
    product: float

    @property
    def distance(self) -> float:
        return max(0.0, self.means + self.first + self.second - 2 * self.root)

    @property
    def with_product(self) -> float:
        """Distance with the product in place of its root; may be below zero."""
        return self.means + self.first + self.second - 2 * self.product


def frechet(first_ND: Tensor, second_ND: Tensor) -> Frechet:
    """Fréchet distance of two sets of two rows or more, in double precision.

    No matrix square root is computed: tr (S_a S_b)^1/2 is the nuclear norm of X_a X_b^T over sqrt((n_a - 1)(n_b - 1)), where X
    are the centred rows, which can be replaced by their triangular factor of at most D rows. So fewer rows than dimensions are
    fine.
    """
    if first_ND.ndim != 2 or first_ND.shape[1:] != second_ND.shape[1:]:
        raise DataError(f"sets of shape {list(first_ND.shape)} and {list(second_ND.shape)}", expected="[N, D] with the same D")
    if min(len(first_ND), len(second_ND)) < 2:
        raise DataError(f"sets of {len(first_ND)} and {len(second_ND)} vectors", expected="two of each or more")
    first_ND, second_ND = first_ND.double(), second_ND.double()
    mean_first_D, mean_second_D = first_ND.mean(0), second_ND.mean(0)
    one_RD = _triangle((first_ND - mean_first_D) / (len(first_ND) - 1) ** 0.5)
    other_RD = _triangle((second_ND - mean_second_D) / (len(second_ND) - 1) ** 0.5)
    cross_RR = one_RD @ other_RD.T
    return Frechet(
        float((mean_first_D - mean_second_D).square().sum()),
        float(one_RD.square().sum()),
        float(other_RD.square().sum()),
        float(torch.linalg.svdvals(cross_RR).sum()),
        float(cross_RR.square().sum()),
    )


def _triangle(centred_ND: Tensor) -> Tensor:
    """R with R^T R = X^T X, of D rows at most."""
    return centred_ND if len(centred_ND) <= centred_ND.shape[1] else torch.linalg.qr(centred_ND, mode="r").R


def without_outliers(vector_ND: Tensor, *, deviations: float = 3.0) -> tuple[Tensor, int]:
    """Replaces rows whose norm is more than `deviations` standard deviations (unbiased) from the median norm by the median of
    every dimension; returns the rows and the number replaced. For an even count the median is the lower middle value, as in
    torch."""
    norm_N = vector_ND.norm(dim=1)
    far_N = (norm_N - norm_N.median()).abs() > deviations * norm_N.std()
    kept_ND = torch.where(far_N[:, None], vector_ND.median(0).values, vector_ND)
    return kept_ND, int(far_N.sum())
