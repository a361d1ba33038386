"""Weighted means over columns of cases, with intervals from the same draws of groups.

Letters: N cases, K columns, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from diptych.core.result import Metric
from diptych.tasks._scoring.intervals import DRAWS, Floats, percentiles, resampled_means


class Means:
    """Columns [N] of values, NaN where a case does not count; `add` all of them, then take metrics.

    groups  groups of the cases, resampled together
    """

    def __init__(self, groups: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> None:
        self.groups, self.draws, self.seed = groups, draws, seed
        self._columns: list[Floats] = []
        self._drawn_RK: Floats | None = None

    def add(self, value_N: npt.ArrayLike) -> int:
        """Adds a column and returns its index."""
        self._columns.append(np.asarray(value_N, np.float64))
        self._drawn_RK = None
        return len(self._columns) - 1

    def metric(self, weights: Mapping[int, float] | int, chance: float = math.nan) -> Metric:
        """The weighted mean of the means of columns, by place. A column that a draw leaves out counts in that draw by
        what the others have of the weights."""
        weights = {weights: 1.0} if isinstance(weights, int) else weights
        columns, weight_K = list(weights), np.array(list(weights.values()))
        if self._drawn_RK is None:
            value_NK = np.stack(self._columns, axis=1)
            self._drawn_RK = resampled_means(value_NK, self.groups, draws=self.draws, seed=self.seed)
        drawn_RK = self._drawn_RK[:, columns]
        there_RK = ~np.isnan(drawn_RK)
        share_R = there_RK @ weight_K
        total_R = np.where(there_RK, drawn_RK, 0.0) @ weight_K
        drawn_R = np.divide(total_R, share_R, out=np.full(len(total_R), np.nan), where=share_R > 0)
        chosen = [self._columns[index] for index in columns]
        value = float(np.array([np.nanmean(column) for column in chosen]) @ weight_K / (np.ones(len(chosen)) @ weight_K))
        items = int(np.any([~np.isnan(column) for column in chosen], axis=0).sum())
        return Metric(value, *percentiles(drawn_R), chance=chance, items=items)


def mean_metrics(
    value_NM: Floats,
    names: Sequence[str],
    groups: Sequence[str],
    *,
    lower_is_better: Sequence[str] = (),
    unit: str = "",
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Metric]:
    """Mean of each column [N] with its interval, by name. NaN cells do not count; a column of NaN alone is left out."""
    drawn_RM = resampled_means(value_NM, groups, draws=draws, seed=seed)
    return {
        name: Metric(
            float(np.nanmean(value_NM[:, column])),
            *percentiles(drawn_RM[:, column]),
            higher_is_better=name not in lower_is_better,
            unit=unit,
        )
        for column, name in enumerate(names)
        if not np.isnan(value_NM[:, column]).all()
    }
