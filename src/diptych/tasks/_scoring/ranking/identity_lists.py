"""Re-identification metrics from ranked lists: CMC at K, mean average precision, mean inverse negative penalty.

Letters: N queries, M metrics, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from diptych.core.errors import DataError
from diptych.core.result import Metric
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.ranking.ranked_lists import RankedList, chance
from diptych.tasks._scoring.records import array

TRAPEZOID = "map_trapezoid"


def list_metrics(records: pa.Table, ks: Sequence[int], *, draws: int, seed: int, trapezoid: bool = False) -> dict[str, Metric]:
    """Metrics "cmc@K", "map" and "minp" with intervals over the column "group", and "map_trapezoid" with `trapezoid`. Reads the
    columns "blocks" (`ranked_lists.py`) and "gallery", the list length of each query. Raises DataError for empty records."""
    groups = records.column("group").to_pylist()
    if not groups:
        raise DataError("nothing to score: the records contain no query", expected="one row or more")
    lists, gallery = lists_of(records), array(records, "gallery").astype(np.int64)
    relevant = np.array([sum(block[2] for block in ranked.blocks) for ranked in lists], np.int64)
    names = [f"cmc@{k}" for k in ks] + ["map", "minp", *([TRAPEZOID] if trapezoid else [])]
    columns = {name: values(lists, name) for name in names}
    guess = {f"cmc@{k}": float(rk.chance_hits(gallery, relevant, k).mean()) for k in ks}
    guess["map"], guess["minp"] = chance(gallery.tolist(), relevant.tolist())
    if trapezoid:
        random = [RankedList(((0, size, count),)) for size, count in zip(gallery.tolist(), relevant.tolist(), strict=True)]
        guess[TRAPEZOID] = float(np.mean([ranked.trapezoid_precision for ranked in random]))
    drawn_RM = resampled_means(np.stack([columns[name] for name in names], 1), groups, draws=draws, seed=seed)
    return {
        name: Metric(float(columns[name].mean()), *percentiles(drawn_RM[:, at]), chance=guess[name])
        for at, name in enumerate(names)
    }


def values(lists: Sequence[RankedList], metric: str) -> Floats:
    """Value of a metric by query, [N]. Ties count as the mean over their orders."""
    if metric == "map":
        return np.array([ranked.average_precision for ranked in lists])
    if metric == TRAPEZOID:
        return np.array([ranked.trapezoid_precision for ranked in lists])
    if metric == "minp":
        return np.array([ranked.inverse_last for ranked in lists])
    above, tied, matches = (np.array([ranked.blocks[0][at] for ranked in lists], np.int64) for at in range(3))
    return rk.hits(above, tied, matches, int(metric.removeprefix("cmc@")), "expected", above)


def list_values(records: pa.Table, metric: str) -> Floats | None:
    """Values of a metric by query, [N, 1]; None for any other metric."""
    if metric not in ("map", "minp", TRAPEZOID) and not (metric.startswith("cmc@") and metric[4:].isdigit()):
        return None
    return values(lists_of(records), metric)[:, None]


def lists_of(records: pa.Table) -> list[RankedList]:
    """The ranked lists of all queries, from the column "blocks" of the records."""
    return [RankedList(tuple((a, t, r) for a, t, r in blocks)) for blocks in records.column("blocks").to_pylist()]
