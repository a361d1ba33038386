"""Search facets: values and counts, or the range, of each column, over the items of an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from diptych.core.contracts import Dataset

MOST = 50
"""A column of at most this many different values is offered as a list."""


def facets(pool: Dataset | None, uids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Column -> {"values", "counts"} or {"min", "max"}, over the rows whose uid is among `uids`. Columns of lists, and of too many
    different values, are left out."""
    if pool is None:
        return {}
    rows = [row for row, uid in enumerate(pool.uids) if uid in uids]
    by_column: dict[str, dict[str, Any]] = {}
    for name in getattr(pool, "column_names", ()):
        column = pool.column(name)  # type: ignore[attr-defined]  # what has names of columns has these
        values = [value for row in rows if (value := column[row]) not in (None, "")]
        if not values or not all(isinstance(value, str | int | float) for value in values):
            continue
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            number_N = np.asarray(values, float)
            finite = number_N[np.isfinite(number_N)]
            if len(finite):
                by_column[name] = {"min": float(finite.min()), "max": float(finite.max())}
        elif len(counts := Counter(str(value) for value in values)) <= MOST:
            distinct = sorted(counts)
            by_column[name] = {"values": distinct, "counts": [counts[value] for value in distinct]}
    return by_column
