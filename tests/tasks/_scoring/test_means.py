"""Means of columns with their intervals, and thresholded matching, against loops over the drawn items."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.randomness import keyed_rng
from diptych.tasks._scoring.intervals import percentiles
from diptych.tasks._scoring.match_threshold import apply_threshold, yes_metrics
from diptych.tasks._scoring.means import Means, mean_metrics

DRAWS, SEED = 40, 7


def draws(groups: list[str]) -> list[list[int]]:
    """Items of every draw, as often as their group was drawn."""
    names = sorted(set(groups))
    chosen = [keyed_rng("interval", SEED, draw).integers(len(names), size=len(names)) for draw in range(DRAWS)]
    return [[i for c in row for i, group in enumerate(groups) if group == names[c]] for row in chosen]


def columns() -> tuple[np.ndarray, list[str]]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    value_NK = rng.random((18, 3))
    groups = [f"g{row % 4}" for row in range(18)]
    value_NK[[group != "g1" for group in groups], 1] = np.nan  # many draws leave this column out
    value_NK[::5, 2] = np.nan
    return value_NK, groups


def mean(values: np.ndarray) -> float:  # type: ignore[type-arg]
    kept = [value for value in values if not math.isnan(value)]
    return sum(kept) / len(kept) if kept else math.nan


def test_weighted_means_leave_out_what_a_draw_leaves_out() -> None:
    value_NK, groups = columns()
    means = Means(groups, draws=DRAWS, seed=SEED)
    assert [means.add(column) for column in value_NK.T] == [0, 1, 2]
    weights = {0: 1.0, 1: 3.0, 2: 0.5}

    def weighted(items: list[int]) -> float:
        by_column = {k: mean(value_NK[items, k]) for k in weights}
        kept = {k: weight for k, weight in weights.items() if not math.isnan(by_column[k])}
        return sum(by_column[k] * weight for k, weight in kept.items()) / sum(kept.values()) if kept else math.nan

    drawn = draws(groups)
    assert any(math.isnan(mean(value_NK[items, 1])) for items in drawn)
    found = means.metric(weights, chance=0.25)
    assert found.value == pytest.approx(weighted(list(range(18))))
    assert (found.low, found.high) == pytest.approx(percentiles(np.array([weighted(items) for items in drawn])))
    assert (found.chance, found.items) == (0.25, 18)
    alone = means.metric(1)
    assert (alone.value, alone.items) == (pytest.approx(mean(value_NK[:, 1])), groups.count("g1"))
    assert (alone.low, alone.high) == pytest.approx(percentiles(np.array([mean(value_NK[items, 1]) for items in drawn])))
    assert means.add(np.ones(18)) == 3
    last = means.metric(3)
    assert (last.value, last.low, last.high) == pytest.approx((1, 1, 1))


def test_means_by_name() -> None:
    value_NM, groups = columns()
    value_NM = np.column_stack([value_NM, np.full(18, np.nan)])
    names = ["share", "few", "error", "never"]
    found = mean_metrics(value_NM, names, groups, lower_is_better=("error",), unit="points", draws=DRAWS, seed=SEED)
    assert list(found) == names[:3]
    for column, (name, metric) in enumerate(found.items()):
        assert metric.value == pytest.approx(mean(value_NM[:, column]))
        drawn = np.array([mean(value_NM[items, column]) for items in draws(groups)])
        assert (metric.low, metric.high) == pytest.approx(percentiles(drawn))
        assert (metric.higher_is_better, metric.unit) == (name != "error", "points")


def answers() -> pa.Table:
    """By hand, at a threshold of 0.5, where 0.5 itself is "no"."""
    cases = [
        ("colour", "a", ["true", "false"], [0.9, 0.2]),  # both right
        ("colour/vg", "a", ["true", "true", "false"], [0.5, 0.6, 0.7]),  # one of three right
        ("colour/vg", "b", ["true", "entailed", "false"], [0.1, 0.9, 0.5]),  # the false one right
        ("size", "c", ["true", "false", "false"], [0.3, 0.1, 0.2]),  # never yes
    ]
    kind, group, roles, scores = (list(column) for column in zip(*cases, strict=True))
    empty = [math.nan] * 4
    return pa.table(
        {"kind": kind, "group": group, "roles": roles, "scores": scores, "credit": empty, "credit_first": empty, "chance": empty}
    )


def test_a_threshold_decides_every_caption_by_itself() -> None:
    found = apply_threshold(answers(), 0.5)
    assert found.column_names == answers().column_names
    for name in ("credit", "credit_first"):
        assert found.column(name).to_pylist() == pytest.approx([1, 1 / 3, 1 / 2, 2 / 3])
    assert found.column("chance").to_pylist() == [0.5] * 4


def test_precision_and_recall_of_yes_by_hand() -> None:
    found = yes_metrics(answers(), 0.5, draws=DRAWS, seed=SEED)
    wanted = {  # true ones above and not above, false ones above
        "colour": (2, 2, 1),
        "colour/vg": (1, 2, 1),
        "size": (0, 1, 0),
    }
    assert list(found) == [f"{node}/{name}" for node in wanted for name in ("precision", "recall", "f1")]
    for node, (tp, fn, fp) in wanted.items():
        values = [found[f"{node}/{name}"].value for name in ("precision", "recall", "f1")]
        assert values == pytest.approx([tp / max(1, tp + fp), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn)])
    assert [found[f"{node}/f1"].items for node in wanted] == [3, 2, 1]
    counts = np.array([[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 0]])
    drawn = []
    for items in draws(["a", "a", "b", "c"]):
        tp, fn, fp = counts[[item for item in items if item < 3]].sum(0)
        drawn.append(2 * tp / (2 * tp + fp + fn) if set(items) != {3} else math.nan)
    f1 = found["colour/f1"]
    assert (f1.low, f1.high) == pytest.approx(percentiles(np.array(drawn)))
