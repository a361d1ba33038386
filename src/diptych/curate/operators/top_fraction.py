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
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, UnknownName
from diptych.curate.engine.verdicts import DropTable, StringColumn, string_column
from diptych.data.subset import sorted_rows, uid_column

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
        value_N = self._values(data)
        by_uid_N = sorted_rows(data)
        rows = by_uid_N[~np.isnan(value_N[by_uid_N])]
        order = rows[np.argsort(value_N[rows] if self.lowest else -value_N[rows], kind="stable")]
        count = math.ceil(self.share * len(order) - 1e-9)
        stays_N = np.zeros(len(value_N), bool)
        stays_N[order[:count]] = True
        threshold = float(value_N[order[count - 1]]) if count else math.nan
        words = f"(expected at {'most' if self.lowest else 'least'} {threshold:.4g}, {self.share:.0%} of the rows)"
        kept, dropped = by_uid_N[stays_N[by_uid_N]], by_uid_N[~stays_N[by_uid_N]]
        values = (float(value_N[row]) for row in dropped)
        reasons = (f"no {self.column}" if math.isnan(value) else f"{self.column}: {value:.4g} {words}" for value in values)
        uids = uid_column(data)
        note = f"{self.column} {'up to' if self.lowest else 'from'} {threshold:.4g}"
        return CurationStepResult(
            StringColumn(uids.take(pa.array(kept))),
            DropTable.of_step(self.slug, uids.take(pa.array(dropped)), string_column(reasons)),
            {},
            time.perf_counter() - start,
            {"top_fraction.html": self._page(data, value_N, order, count, threshold).encode()} if count else {},
            (note,),
        )

    def _values(self, data: Any) -> Floats:
        """Value of each row, NaN if missing, float64 [N]."""
        names = getattr(data, "column_names", [])
        if self.column not in names:
            raise UnknownName("column", self.column, names)
        column = data.arrow(self.column) if data.is_flat(self.column) else pa.nulls(len(data), pa.string())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            numbers: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return numbers
        values = data.column(self.column)
        if wrong := next((value for value in values if value is not None and not isinstance(value, int | float)), None):
            raise ConfigError(f"column '{self.column}' holds {wrong!r:.40} (expected numbers)")
        return np.array([math.nan if value is None else float(value) for value in values])

    def _page(self, data: Any, value_N: Floats, order: Ints, count: int, threshold: float) -> str:
        from diptych.report.pages.threshold import threshold_page

        title, lead = f"{self.column}: {self.share:.0%}", f"{count:,} rows stay, {len(order) - count:,} leave."
        kept, left = order[:count], order[count:]
        return threshold_page(data, value_N, kept, left, name=self.column, threshold=threshold, title=title, lead=lead)
