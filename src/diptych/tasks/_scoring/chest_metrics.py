"""Metrics of chest X-ray protocols: multi-label AUROC and F1, Dice, retrieval hits (BenchX, 2410.21969).

Differences in the released code: the F1 threshold is fitted on the scored rows themselves, as ">=", and then applied as ">"; a
hit is any candidate of the same class rather than the query's own report. Both forms are implemented.

Letters: N items, M candidates, K labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError, ShapeError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def auroc(score_N: npt.NDArray[Any], truth_N: Bools, weight_N: Floats | None = None) -> float:
    """AUROC: probability that a positive scores above a negative, ties count half; NaN if a class is missing. `weight_N`: item
    weights."""
    weight_N = np.ones(len(score_N)) if weight_N is None else weight_N
    positive, negative = weight_N * truth_N, weight_N * ~truth_N
    if not positive.sum() or not negative.sum():
        return float("nan")
    _, place_N = np.unique(score_N, return_inverse=True)
    there_P, absent_P = np.bincount(place_N, positive), np.bincount(place_N, negative)
    below_P = absent_P.cumsum() - absent_P
    return float((there_P * (below_P + absent_P / 2)).sum() / (positive.sum() * negative.sum()))


def macro_auroc(score_NK: Floats, truth_NK: Bools, weight_N: Floats | None = None) -> float:
    """Mean AUROC over the labels that have positives and negatives; NaN where none has."""
    values = [auroc(score_NK[:, k], truth_NK[:, k], weight_N) for k in range(truth_NK.shape[1])]
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float("nan")


def best_threshold(score_NK: Floats, truth_NK: Bools) -> float:
    """Threshold t for which "score >= t" has the highest micro F1; the lowest one on a tie, infinity without a positive."""
    score_M, truth_M = score_NK.ravel(), truth_NK.ravel()
    if not truth_M.any():
        return float("inf")
    order = np.argsort(-score_M, kind="stable")
    sorted_M, hit_M = score_M[order], truth_M[order]
    last = np.flatnonzero(np.append(np.diff(sorted_M) != 0, True))
    f1 = 2 * hit_M.cumsum()[last] / (last + 1 + hit_M.sum())
    return float(sorted_M[last[len(f1) - 1 - int(f1[::-1].argmax())]])


def f1_scores(predicted_NK: Bools, truth_NK: Bools, *, empty: float = 0.0) -> tuple[float, float]:
    """Micro and macro F1; `empty` is the F1 of a label that is neither present nor predicted."""
    if predicted_NK.shape != truth_NK.shape:
        raise ShapeError(f"predictions are {list(predicted_NK.shape)}, truth {list(truth_NK.shape)} (expected the same)")
    hit_K, size_K = (predicted_NK & truth_NK).sum(0), predicted_NK.sum(0) + truth_NK.sum(0)
    micro = 2 * hit_K.sum() / size_K.sum() if size_K.sum() else empty
    macro = np.where(size_K > 0, 2 * hit_K / np.maximum(size_K, 1), empty).mean()
    return float(micro), float(macro)


def dice(predicted: Bools, truth: Bools) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of two masks of the same shape; 1 if both are empty."""
    if predicted.shape != truth.shape:
        raise ShapeError(f"the prediction is {list(predicted.shape)}, the truth {list(truth.shape)} (expected the same)")
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def retrieval_hits(
    similarity_NM: npt.NDArray[Any], own_N: npt.NDArray[np.int64], class_N: npt.NDArray[Any], class_M: npt.NDArray[Any], k: int
) -> tuple[Floats, Floats, Floats]:
    """Per query: 1 if its own candidate is among the first k, 1 if any of its class is, and the fraction of its class among them.

    own_N  column of each query's own candidate. Equal similarities keep the order of the candidates
    """
    if not 1 <= k <= similarity_NM.shape[1]:
        raise ConfigError(f"k is {k} of {similarity_NM.shape[1]} candidates (expected 1 to all of them)")
    first_Nk = np.argsort(-similarity_NM, axis=1, kind="stable")[:, :k]
    same_Nk = class_M[first_Nk] == class_N[:, None]
    own = (first_Nk == own_N[:, None]).any(1)
    return own.astype(np.float64), same_Nk.any(1).astype(np.float64), same_Nk.mean(1)
