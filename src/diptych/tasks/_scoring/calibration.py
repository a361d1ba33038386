"""Calibration of probabilities: reliability in bins, expected calibration error (Guo et al., 2017), sensitivity at a specificity.

Letters: N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.errors import ConfigError
from diptych.tasks._scoring.chest_metrics import Bools, Floats

BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Items whose probability lies in one bin: their mean probability, the fraction of positives, and their number."""

    probability: float
    positive: float
    items: int


def reliability_bins(probability_N: Floats, truth_N: Bools, bins: int = BINS) -> list[ReliabilityBin]:
    """Bins of equal width from 0 to 1 that hold items, lowest first. A value on an edge counts to the upper bin.

    >>> reliability_bins(np.array([0.1, 0.2, 0.9]), np.array([False, True, True]), bins=2)[1]
    ReliabilityBin(probability=0.9, positive=1.0, items=1)
    """
    if bins < 1:
        raise ConfigError(f"bins is {bins} (expected 1 or more)")
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.clip(np.searchsorted(edges, probability_N, side="right") - 1, 0, bins - 1)
    rows = []
    for index in np.unique(bin_N):
        inside_N = bin_N == index
        rows.append(ReliabilityBin(float(probability_N[inside_N].mean()), float(truth_N[inside_N].mean()), int(inside_N.sum())))
    return rows


def expected_calibration_error(rows: Sequence[ReliabilityBin]) -> float:
    """Mean over items of |mean probability - share of positives| of their bin."""
    total = sum(row.items for row in rows)
    return sum(row.items * abs(row.probability - row.positive) for row in rows) / total


def specificity_threshold(score_N: Floats, truth_N: Bools, specificity: float) -> float:
    """The lowest score at which "it or above is positive" leaves that share of the negatives below it; NaN without negatives.

    >>> scores = np.array([0.1, 0.2, 0.3, 0.4])
    >>> bool(0.2 < specificity_threshold(scores, np.zeros(4, bool), 0.5) <= 0.3)
    True
    """
    negative_M = np.sort(score_N[~truth_N])
    if not len(negative_M):
        return float("nan")
    below = int(np.ceil(specificity * len(negative_M) - 1e-9))
    return float(np.nextafter(negative_M[below - 1], np.inf)) if below else float("-inf")


def sensitivity_at(
    specificity: float, val_score_NK: Floats, val_truth_NK: Bools, score_NK: Floats, truth_NK: Bools
) -> tuple[float, float]:
    """Sensitivity and specificity, means over labels, at each label's threshold for that specificity on validation.

    Labels without negatives on validation, or without either class here, are left out; NaN without any.
    """
    reached = []
    for k in range(truth_NK.shape[1]):
        threshold = specificity_threshold(val_score_NK[:, k], val_truth_NK[:, k], specificity)
        positive_N = truth_NK[:, k]
        if np.isnan(threshold) or positive_N.all() or not positive_N.any():
            continue
        above_N = score_NK[:, k] >= threshold
        reached.append((float(above_N[positive_N].mean()), float(1 - above_N[~positive_N].mean())))
    if not reached:
        return float("nan"), float("nan")
    sensitivity, kept = np.mean(reached, 0)
    return float(sensitivity), float(kept)
