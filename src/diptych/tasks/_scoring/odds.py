"""Odds ratio of a success with and without a condition, within strata.  Letters: N items, K columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

STEPS = 50
SEPARATED = 15.0
"""A coefficient beyond this is on its way to infinity: one side never, or always, succeeds."""


def odds_ratio(
    success_N: npt.NDArray[np.bool_], present_N: npt.NDArray[np.bool_], strata: Sequence[str]
) -> tuple[float, float, float]:
    """By logistic regression with an intercept for each stratum: the ratio and its 95 % interval (Wald). NaN where it has no
    finite value, or all items are alike.

    >>> had, none = [True] * 30 + [False] * 10, [True] * 10 + [False] * 30
    >>> ratio, low, high = odds_ratio(np.array(had + none), np.array([True] * 40 + [False] * 40), ["a"] * 80)
    >>> round(ratio, 3)
    9.0
    """
    names = sorted(set(strata))
    columns = [present_N.astype(float), *(np.array([one == name for one in strata], float) for name in names)]
    x_NK, y_N = np.stack(columns, 1), success_N.astype(float)
    if len(set(y_N.tolist())) < 2 or len(set(present_N.tolist())) < 2:
        return math.nan, math.nan, math.nan
    weight_K = np.zeros(x_NK.shape[1])
    for _ in range(STEPS):
        chance_N = 1 / (1 + np.exp(-np.clip(x_NK @ weight_K, -30, 30)))
        curve_KK = x_NK.T @ (x_NK * (chance_N * (1 - chance_N))[:, None])
        step_K = np.linalg.pinv(curve_KK) @ (x_NK.T @ (y_N - chance_N))
        weight_K = weight_K + step_K
        if np.abs(step_K).max() < 1e-10 or abs(weight_K[0]) > SEPARATED:
            break
    slope = float(weight_K[0])
    if abs(slope) > SEPARATED:
        return math.nan, math.nan, math.nan
    spread = 1.959963984540054 * math.sqrt(float(np.linalg.pinv(curve_KK)[0, 0]))
    return math.exp(slope), math.exp(slope - spread), math.exp(slope + spread)
