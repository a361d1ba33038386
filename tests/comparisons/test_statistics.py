"""Paired tests over items against scipy, by hand, and on records whose groups move together."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from diptych.claims.verdict import paired_difference
from diptych.comparisons.statistics import detectable, group_parts, item_view, items_needed, mcnemar, sign_flip
from diptych.core.errors import DataError
from diptych.tasks.pairs.zero_shot import ZeroShot

HITS = partial(ZeroShot.item_values, metric="acc@1")
RECALLS = partial(ZeroShot.item_values, metric="mean_per_class")


def class_records(right: np.ndarray, groups: list[str] | None = None) -> pa.Table:
    n = len(right)
    return pa.table(
        {
            "uid": [f"u{i}" for i in range(n)],
            "group": groups or [f"u{i}" for i in range(n)],
            "above": (~right.astype(bool)).astype(np.int64),
            "tied": np.ones(n, np.int64),
            "tied_relevant": np.ones(n, np.int64),
            "rank_by_index": 1 + (~right.astype(bool)).astype(np.int64),
        }
    )


@pytest.mark.parametrize(("wins", "losses"), [(10, 25), (0, 6), (7, 7), (3, 40), (0, 0)])
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    exact, mid = mcnemar(wins, losses)
    if wins + losses:
        assert exact == pytest.approx(stats.binomtest(wins, wins + losses, 0.5).pvalue)
        k, n = min(wins, losses), wins + losses
        assert mid == pytest.approx(2 * stats.binom.cdf(k - 1, n, 0.5) + stats.binom.pmf(k, n, 0.5))
    else:
        assert (exact, mid) == (1.0, 1.0)


def test_the_t_interval_is_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.1, 5), rng.normal(0.55, 0.1, 5)
    ours, theirs = paired_difference(a, b), stats.ttest_rel(b, a)
    interval = theirs.confidence_interval()
    assert (ours.p, ours.low, ours.high) == pytest.approx((theirs.pvalue, interval.low, interval.high))


def test_sign_flips_agree_with_scipys_exact_permutations() -> None:
    d = np.random.default_rng(1).normal(0.4, 1.0, 12)
    exact = stats.permutation_test((d,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d, flips=40_000) == pytest.approx(exact.pvalue, abs=0.01)
    assert sign_flip(np.zeros(5)) == 1.0


def test_the_interval_of_the_difference_is_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random(400) < 0.6, rng.random(400) < 0.7
    view = item_view(class_records(a), class_records(b), HITS)
    assert view is not None
    assert view.difference == pytest.approx(b.mean() - a.mean())
    theirs = stats.bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis: y.mean(axis=axis) - x.mean(axis=axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (view.low, view.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert (view.wins, view.losses) == (int((b & ~a).sum()), int((a & ~b).sum()))
    assert view.mid_p == pytest.approx(mcnemar(view.wins, view.losses)[1])


def test_items_that_move_together_make_the_interval_wider() -> None:
    rng = np.random.default_rng(4)
    a, b = (np.repeat(rng.random(40) < p, 10) for p in (0.5, 0.6))  # 40 groups of 10 equal items
    groups = [f"g{i // 10}" for i in range(400)]
    naive, grouped = (
        item_view(class_records(a), class_records(b), HITS),
        item_view(class_records(a, groups), class_records(b, groups), HITS),
    )
    assert naive is not None
    assert grouped is not None
    assert grouped.high - grouped.low > 2 * (naive.high - naive.low)
    assert grouped.p > naive.p
    assert math.isnan(grouped.mid_p)
    assert not math.isnan(naive.mid_p)


def test_order_of_rows_does_not_matter_and_other_items_are_refused() -> None:
    rng = np.random.default_rng(5)
    a, b = class_records(rng.random(50) < 0.5), class_records(rng.random(50) < 0.5)
    assert item_view(a, b.take(rng.permutation(50)), HITS) == item_view(a, b, HITS)
    with pytest.raises(DataError, match="evaluated on different items"):
        item_view(a, b.slice(1), HITS)
    assert item_view(a, b, RECALLS) is None


def test_columns_weigh_equally_whatever_their_size() -> None:
    """Two directions, of 4 and of 1 items: the mean of the means, not the mean of all five."""
    d_NM = np.array([[1.0, np.nan], [0.0, np.nan], [0.0, np.nan], [0.0, np.nan], [np.nan, 1.0]])
    parts = group_parts(d_NM, ["a", "a", "b", "b", "c"])
    assert parts == pytest.approx([0.125, 0.0, 0.5])
    assert parts.sum() == pytest.approx(0.625)


def test_power_in_numbers_of_items() -> None:
    assert detectable(0.1, 1000) == pytest.approx(0.028)
    assert detectable(0.1, items_needed(0.1, 0.02)) == pytest.approx(0.02, rel=1e-3)
