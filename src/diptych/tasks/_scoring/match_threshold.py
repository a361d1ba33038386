"""Thresholded matching: yes or no for each caption by itself, as a model's matching head decides.

Letters: N cases, R draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from diptych.core.result import Metric
from diptych.tasks._scoring.captions.choices import FIRST, Floats, kinds_below, nodes
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import array


def apply_threshold(records: pa.Table, threshold: float) -> pa.Table:
    """The same cases; a case's credit is the share of its options, entailed ones aside, that are decided rightly: a true one that scores
    above the threshold, a false one that does not."""
    credit_N = (_counts(records, threshold) @ [1, 0, 0, 1]) / _counts(records, threshold).sum(1)
    chance_N = np.full(len(records), 0.5)
    for name, value_N in (("credit", credit_N), ("credit" + FIRST, credit_N), ("chance", chance_N)):
        records = records.set_column(records.column_names.index(name), name, pa.array(value_N, pa.float64()))
    return records


def yes_metrics(records: pa.Table, threshold: float, *, draws: int, seed: int) -> dict[str, Metric]:
    """Precision, recall and F1 of "yes" for every node of the tree of kinds, over the options below it: "Attribute/color/vg/f1".

    A model that never says yes has a precision of 0, and so has its F1 (the released code divides by nothing there).
    """
    kind_N, count_N4 = array(records, "kind"), _counts(records, threshold).astype(np.float64)
    metrics = {}
    for node in nodes(set(kind_N.tolist())):
        inside_N = np.isin(kind_N, kinds_below(node, set(kind_N.tolist())))
        mean_14 = count_N4[inside_N].mean(0, keepdims=True)
        drawn_R4 = resampled_means(
            np.where(inside_N[:, None], count_N4, np.nan), records.column("group").to_pylist(), draws=draws, seed=seed
        )
        for name, value, drawn_R in zip(
            ("precision", "recall", "f1"), _precision_recall_f1(mean_14), _precision_recall_f1(drawn_R4), strict=True
        ):
            metrics[f"{node}/{name}"] = Metric(float(value[0]), *percentiles(drawn_R), items=int(inside_N.sum()))
    return metrics


def _counts(records: pa.Table, threshold: float) -> Floats:
    """Confusion counts [N, 4]: true ones above, true ones not above, false ones above, false ones not above."""
    both = zip(records.column("scores").to_pylist(), records.column("roles").to_pylist(), strict=True)
    rows = [_confusion_counts(scores, roles, threshold) for scores, roles in both]
    return np.array(rows, np.float64).reshape(-1, 4)


def _confusion_counts(scores: Sequence[float], roles: Sequence[str], threshold: float) -> list[int]:
    decisions = [(role == "true", score > threshold) for score, role in zip(scores, roles, strict=True) if role != "entailed"]
    return [decisions.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]


def _precision_recall_f1(count_M4: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1, [M] each; NaN where a draw holds nothing."""
    tp_M, fn_M, fp_M, _ = count_M4.T
    values = tuple(
        _share(part, whole) for part, whole in ((tp_M, tp_M + fp_M), (tp_M, tp_M + fn_M), (2 * tp_M, 2 * tp_M + fp_M + fn_M))
    )
    return values[0], values[1], values[2]


def _share(part_M: Floats, whole_M: Floats) -> Floats:
    share: Floats = np.where(np.isnan(whole_M), np.nan, np.divide(part_M, whole_M, out=np.zeros_like(part_M), where=whole_M > 0))
    return share
