"""Keep the share of rows with the highest values of a column, such as CLIP scores (DataComp; Gadre et al., 2023, 2304.14108).

The threshold is the value of the last kept row; ties are broken by uid, so the fraction is exact and the result does not depend
on the order of rows. Rows without a value are dropped. `top_fraction.html` shows the histogram, the threshold and images on both
sides of it.

Cost: a sort of one column; pictures near the threshold are opened for the page.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError, UnknownName


@dataclass(frozen=True)
class TopFraction:
    """column  column of numbers, from an earlier step or the source
    share   share of the rows with a value that is kept (DataComp: 0.3)
    lowest  keep the lowest values instead, such as probabilities of a watermark
    """

    slug: ClassVar[str] = "top_fraction"
    paths: ClassVar[tuple[str, ...]] = ()

    column: str = "similarity"
    share: float = 0.3
    lowest: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share} (expected above 0, at most 1)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        return {"items": len(data), "unit": "value", "seconds": 0.0}

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        values = self._values(data)
        sign = 1.0 if self.lowest else -1.0
        order = sorted(
            (row for row in range(len(data)) if not math.isnan(values[row])), key=lambda row: (sign * values[row], data.uids[row])
        )
        count = math.ceil(self.share * len(order) - 1e-9)
        kept, left = order[:count], order[count:]
        threshold = values[kept[-1]] if kept else math.nan
        words = f"(expected at {'most' if self.lowest else 'least'} {threshold:.4g}, {self.share:.0%} of the rows)"
        dropped = [Drop(data.uids[row], self.slug, f"{self.column}: {values[row]:.4g} {words}") for row in left]
        dropped += [Drop(data.uids[row], self.slug, f"no {self.column}") for row in range(len(data)) if math.isnan(values[row])]
        note = f"{self.column} {'up to' if self.lowest else 'from'} {threshold:.4g}"
        return CurationStepResult(
            tuple(sorted(data.uids[row] for row in kept)),
            tuple(sorted(dropped, key=lambda drop: drop.uid)),
            {},
            time.perf_counter() - start,
            {"top_fraction.html": self._page(data, values, kept, left, threshold).encode()} if kept else {},
            (note,),
        )

    def _values(self, data: Any) -> list[float]:
        """Value of each row, NaN if missing."""
        names = getattr(data, "column_names", [])
        if self.column not in names:
            raise UnknownName("column", self.column, names)
        values = data.column(self.column)
        if wrong := next((value for value in values if value is not None and not isinstance(value, int | float)), None):
            raise ConfigError(f"column '{self.column}' holds {wrong!r:.40} (expected numbers)")
        return [math.nan if value is None else float(value) for value in values]

    def _page(self, data: Any, values: list[float], kept: list[int], left: list[int], threshold: float) -> str:
        from diptych.report.pages.threshold import threshold_page

        title, lead = f"{self.column}: {self.share:.0%}", f"{len(kept):,} rows stay, {len(left):,} leave."
        return threshold_page(data, np.array(values), kept, left, name=self.column, threshold=threshold, title=title, lead=lead)
