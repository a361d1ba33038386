"""The vectorised bootstrap against loops, and the reason for it: items of a group move together."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.randomness import keyed_rng
from diptych.tasks._scoring import intervals


def drawn_items(groups: list[str], draw: int, seed: int = 0) -> list[int]:
    """The items of one draw, repeated as often as their group was drawn."""
    names = sorted(set(groups))
    chosen = keyed_rng("interval", seed, draw).integers(len(names), size=len(names))
    return [i for c in chosen for i, group in enumerate(groups) if group == names[c]]


def test_means_medians_and_class_means_against_loops() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in rng.integers(0, 7, 30)]
    values = rng.random((30, 2))
    values[::3, 1] = np.nan
    classes = rng.integers(0, 3, 30)
    means = intervals.resampled_means(values, groups, draws=20)
    medians = intervals.resampled_medians(values[:, 1], groups, draws=20)
    by_class = intervals.resampled_class_means(values[:, 0], classes, groups, draws=20)
    for draw in range(20):
        items = drawn_items(groups, draw)
        np.testing.assert_allclose(means[draw], np.nanmean(values[items], axis=0))
        assert medians[draw] == pytest.approx(np.nanmedian(values[items, 1]))
        each = [values[[i for i in items if classes[i] == k], 0] for k in range(3)]
        assert by_class[draw] == pytest.approx(np.mean([e.mean() for e in each if len(e)]))


def test_memory_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = np.random.default_rng(3).random(40), [f"g{i % 9}" for i in range(40)]
    whole = intervals.resampled_means(values[:, None], groups, draws=50), intervals.resampled_medians(values, groups, draws=50)
    monkeypatch.setattr(intervals, "CELLS", 100)
    parts = intervals.resampled_means(values[:, None], groups, draws=50), intervals.resampled_medians(values, groups, draws=50)
    np.testing.assert_allclose(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1])


def test_draws_that_are_kept_belong_to_their_count_seed_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [(count, draws, seed) for count in (5, 6) for draws in (40, 30) for seed in (0, 1)]
    kept = [np.concatenate(list(intervals.group_weights(*each, each[0]))) for each in (*settings, *settings)][len(settings) :]
    with pytest.raises(ValueError, match="read-only"):
        next(intervals.group_weights(*settings[0], 5))[0] += 1
    monkeypatch.setattr(intervals, "REMEMBERED", 0)
    for each, weight_RC in zip(settings, kept, strict=True):
        np.testing.assert_array_equal(weight_RC, np.concatenate(list(intervals.group_weights(*each, each[0]))))


def test_agrees_with_scipy_for_single_items() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).random(200)
    low, high = intervals.percentiles(intervals.resampled_means(values[:, None], [str(i) for i in range(200)])[:, 0])
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.006)
    assert high == pytest.approx(theirs.high, abs=0.006)


def test_group_interval_is_wider_than_the_naive_one_when_items_move_together() -> None:
    rng = np.random.default_rng(2)
    easy = np.repeat(rng.random(60), 5)  # one difficulty an image, five captions each
    hit = (rng.random(300) < easy)[:, None].astype(float)
    naive = intervals.percentiles(intervals.resampled_means(hit, [str(i) for i in range(300)])[:, 0])
    grouped = intervals.percentiles(intervals.resampled_means(hit, [str(i // 5) for i in range(300)])[:, 0])
    assert grouped[1] - grouped[0] > 1.2 * (naive[1] - naive[0])


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        means = rng.normal(0.5, 0.2, 40)
        values = (np.repeat(means, 3) + rng.normal(0, 0.05, 120))[:, None]
        low, high = intervals.percentiles(
            intervals.resampled_means(values, [str(i // 3) for i in range(120)], draws=300, seed=trial)[:, 0]
        )
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_group_has_no_interval() -> None:
    drawn = intervals.resampled_means(np.ones((4, 1)), ["a"] * 4, draws=10)
    assert np.isnan(intervals.percentiles(drawn[:, 0])).all()
    assert np.isnan(intervals.percentiles(intervals.resampled_medians(np.ones(4), ["a"] * 4, draws=10))).all()
    assert np.isnan(
        intervals.percentiles(intervals.resampled_class_means(np.ones(4), np.zeros(4, int), ["a"] * 4, draws=10))
    ).all()


def test_without_draws_there_is_no_interval() -> None:
    value_NM, groups = np.array([[1.0, 0.0], [0.0, np.nan]]), ["a", "b"]
    assert intervals.resampled_means(value_NM, groups, draws=0).shape == (0, 2)
    assert intervals.resampled_medians(value_NM[:, 0], groups, draws=0).shape == (0,)
    assert intervals.resampled_class_means(value_NM[:, 0], np.array([0, 1]), groups, draws=0).shape == (0,)
    assert np.isnan(intervals.percentiles(np.zeros(0))).all()
