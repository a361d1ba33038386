"""Cost estimates of curation steps, from timing them on a few rows of the same data."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from diptych.core.contracts import Dataset
from diptych.core.errors import DecodeError
from diptych.core.image import ImageSource

TRIED = 24  # rows


def estimate_cost(data: Dataset, work: Callable[[ImageSource], Any], *, unit: str) -> dict[str, Any]:
    """Estimated items, unit, seconds an item and in all, from up to 24 rows spread over the data. Their results are discarded."""
    rows = list(range(0, len(data), max(1, len(data) // TRIED)))[:TRIED]
    start = time.perf_counter()
    for row in rows:
        image = data[row].image
        if image is None:
            continue
        try:
            work(image)
        except (DecodeError, OSError):
            continue  # costs its time here, and a named drop when the step runs
    each = (time.perf_counter() - start) / max(1, len(rows))
    return {"items": len(data), "unit": unit, "seconds_each": each, "seconds": each * len(data)}
