"""Parts shared by zero-shot classification and the probes: labels of samples, records of class ranks, and their score.

Letters: N items, K classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.tasks._scoring.intervals import Floats, codes, percentiles, resampled_class_means, resampled_means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import array, facts_of, recorded_ties

CLASSES = [("uid", pa.string()), ("group", pa.string()), ("label", pa.string())]
COUNTS = [(name, pa.int64()) for name in ("above", "tied", "tied_relevant", "relevant", "gallery", "rank_by_index")]
SHOWN = [
    ("rank_expected", pa.float64()),
    ("score", pa.float64()),
    ("top", pa.list_(pa.string())),
    ("top_score", pa.list_(pa.float64())),
]
SCHEMA = pa.schema([*CLASSES, *COUNTS, *SHOWN])


def require_classes(names: Sequence[str], field: str) -> None:
    """Raises DataError unless there are two classes or more."""
    if len(names) < 2:
        raise DataError(f"there is only one class, {names[0]!r}", field=field, expected="two classes or more")


def class_list_hash(names: Sequence[str]) -> str:
    """Eight hex digits of the ordered list of class names."""
    return hashlib.sha256(json.dumps(list(names), ensure_ascii=False).encode()).hexdigest()[:8]


def class_records(samples: Sequence[Sample], labels: Sequence[str], ranks: rk.Ranks, names: Sequence[str]) -> pa.Table:
    """Returns one row per item: where its true class stands among all classes, and the best five."""
    return pa.table(
        {
            "uid": [sample.uid for sample in samples],
            "group": [sample.group or sample.uid for sample in samples],
            "label": list(labels),
            "above": ranks.above,
            "tied": ranks.tied,
            "tied_relevant": ranks.tied_relevant,
            "relevant": ranks.relevant,
            "gallery": np.full(len(samples), ranks.gallery, np.int64),
            "rank_by_index": ranks.by_index,
            "rank_expected": rk.ranks(ranks.above, ranks.tied, ranks.tied_relevant, "expected", ranks.by_index),
            "score": ranks.best,
            "top": [[names[k] for k in row] for row in ranks.top_NK],
            "top_score": ranks.top_score_NK.tolist(),
        },
        schema=SCHEMA,
    )


class ClassTask(Protocol):
    """Interface that scoring needs of a task whose items have a class each."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def main(self) -> str: ...

    @property
    def ties(self) -> rk.Ties: ...

    @property
    def draws(self) -> int: ...

    @property
    def seed(self) -> int: ...


def score_classes(records: pa.Table, task: ClassTask) -> Result:
    """acc@1, acc@5 (left out below five classes) and mean per-class recall, with intervals over groups. Pure.

    The mean per-class recall runs over the classes that have items (as scikit-learn's balanced accuracy does), not over those
    that are only predicted.
    """
    if not len(records):
        raise DataError("nothing to score: the records contain no item", expected="one row or more")
    ties, draws, seed = task.ties, task.draws, task.seed
    above, tied, tied_relevant, relevant, gallery, by_index = (array(records, column).astype(np.int64) for column, _ in COUNTS)
    groups = records.column("group").to_pylist()
    ks = [k for k in (1, 5) if k == 1 or gallery[0] >= k]
    hit_NM = np.stack([rk.hits(above, tied, tied_relevant, k, ties, by_index) for k in ks], axis=1)
    drawn_RM = resampled_means(hit_NM, groups, draws=draws, seed=seed)
    chance_N = {k: rk.chance_hits(gallery, relevant, k) for k in ks}
    metrics = {
        f"acc@{k}": Metric(float(hit_NM[:, m].mean()), *percentiles(drawn_RM[:, m]), chance=float(chance_N[k].mean()))
        for m, k in enumerate(ks)
    }
    labels = records.column("label").to_pylist()
    class_N, count = codes(labels)
    drawn_R = resampled_class_means(hit_NM[:, 0], class_N, groups, draws=draws, seed=seed)
    per_class = [float(hit_NM[class_N == k, 0].mean()) for k in range(count)]
    chance = float(np.mean([chance_N[1][class_N == k].mean() for k in range(count)]))
    metrics["mean_per_class"] = Metric(float(np.mean(per_class)), *percentiles(drawn_R), chance=chance)
    notes: dict[str, Any] = {
        **facts_of(records),
        "ties": ties,
        "share_tied": float(((above == 0) & (tied > tied_relevant)).mean()),
        "interval": f"95 % percentile, {draws} draws of groups, seed {seed}",
        "classes_with_items": count,
        "worst_classes": worst_classes(labels, hit_NM[:, 0]),
    }
    return Result(task.name, task.version, task.main, metrics, len(records), len(set(groups)), notes=notes)


def class_item_values(records: pa.Table, metric: str) -> Floats | None:
    """[N, 1] for "acc@K": hits under the tie policy that was recorded; None for a metric that is not a mean over items."""
    if not metric.startswith("acc@"):
        return None
    names = ("above", "tied", "tied_relevant", "rank_by_index")
    above, tied, tied_relevant, by_index = (array(records, name).astype(np.int64) for name in names)
    return rk.hits(above, tied, tied_relevant, int(metric[4:]), recorded_ties(records), by_index)[:, None]


def worst_classes(labels: Sequence[str], hit_N: Floats, most: int = 20) -> list[dict[str, Any]]:
    """The classes with the lowest recall: label, recall, items; equal ones by name."""
    by_class: dict[str, list[float]] = {}
    for label, hit in zip(labels, hit_N, strict=True):
        by_class.setdefault(label, []).append(float(hit))
    order = sorted(by_class, key=lambda label: (sum(by_class[label]) / len(by_class[label]), label))
    return [{"label": k, "recall": sum(by_class[k]) / len(by_class[k]), "items": len(by_class[k])} for k in order[:most]]
