"""The published probabilities against products written out, draws against their expectation, t against a naive search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, ShapeError
from diptych.curate.text.balance import entry_probability, keep_by_entry, keep_probability, share_below, threshold_for
from diptych.curate.text.entry_draws import draw_texts

counts_of = st.lists(st.integers(0, 500), min_size=1, max_size=20).map(lambda c: np.array(c, np.uint64))


def test_probabilities_on_paper() -> None:
    p_M = entry_probability(np.array([5, 10, 40], np.uint64), 10)
    assert p_M.tolist() == [1.0, 1.0, 0.25]
    chance = keep_probability(np.array([2, 2, 0]), np.array([0, 1, 1, 3]), np.array([1.0, 1.0, 0.25]))
    assert chance == pytest.approx([0.25, 0.0, 1.0], abs=1e-15)


@given(st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=8), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_any_entry_may_save_a_text(texts: list[list[int]], p: list[float]) -> None:
    offsets = np.cumsum([0, *map(len, texts)])
    found = keep_probability(np.array([e for es in texts for e in es], np.int64), offsets, np.array(p))
    naive = [1 - np.prod([1 - p[e] for e in es]) for es in texts]
    assert found == pytest.approx(naive, abs=1e-12)


@given(counts_of, st.floats(0.01, 0.99))
@settings(max_examples=200)
def test_threshold_is_the_count_whose_running_share_is_nearest(count_M: np.ndarray, share: float) -> None:
    there = sorted(int(c) for c in count_M if c)
    t = threshold_for(count_M, share)
    if not there:
        assert t == 1
        return
    running = [sum(there[: i + 1]) / sum(there) for i in range(len(there))]
    gaps = [abs(r - share) for r in running]
    assert t == there[gaps.index(min(gaps))]
    below = sum(c for c in there if c < t) / sum(there)
    assert share_below(count_M, t) == pytest.approx(below)


def test_the_ends_of_the_tail_share() -> None:
    """As the released p_to_t for [1, 1, 2, 4, 12, 12]: 12 at p = 1, 1 at p = 0, 4 at p = 0.2, 2 at p = 0.1."""
    count_M = np.array([12, 1, 4, 0, 2, 1, 12], np.uint64)
    assert [threshold_for(count_M, p) for p in (1.0, 0.0, 0.2, 0.1)] == [12, 1, 4, 2]
    assert entry_probability(count_M, threshold_for(count_M, 1.0)).tolist() == [1.0] * 7
    assert threshold_for(np.array([5, 5], np.uint64), 1.0) == 5
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            threshold_for(count_M, share)


@pytest.mark.parametrize("draw", ["text", "entry"])
def test_draws_agree_with_their_expectation(draw: str) -> None:
    """20,000 texts, 200 entries by Zipf: the kept ones lie within four standard deviations of the sum of P."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 201)
    sets = [np.unique(rng.choice(200, rng.integers(1, 5), p=weights / weights.sum())) for _ in range(20_000)]
    entry_K, offsets = np.concatenate(sets), np.cumsum([0, *map(len, sets)])
    count_M = np.bincount(entry_K, minlength=200).astype(np.uint64)
    p_M = entry_probability(count_M, 100)
    found = draw_texts([f"u{n:05}" for n in range(20_000)], entry_K, offsets, p_M, seed=1, draw=draw)
    chance = found.chance_T
    spread = np.sqrt((chance * (1 - chance)).sum())
    assert abs(found.stays_I.sum() - chance.sum()) < 4 * spread


def test_one_text_of_each_image_is_drawn_evenly() -> None:
    uids = [f"u{n:04}" for n in range(3000) for _ in range(3)]
    entry_K, offsets = np.zeros(6000, np.int64), np.cumsum([0, *([1, 0, 1] * 3000)])  # the middle text matches nothing
    found = draw_texts(uids, entry_K, offsets, np.ones(1), seed=0)
    assert len(found.uids) == 3000
    assert set((found.text_I % 3).tolist()) == {0, 2}
    assert abs((found.text_I % 3 == 0).mean() - 0.5) < 0.04
    assert found.stays_I.all()


def test_any_text_may_keep_an_image() -> None:
    uids = [f"u{n:04}" for n in range(4000) for _ in range(2)]
    entry_K, offsets = np.tile([0, 1], 4000), np.arange(8001)
    found = draw_texts(uids, entry_K, offsets, np.array([0.5, 0.5]), seed=0, texts="any")
    assert abs(found.stays_I.mean() - 0.75) < 0.03
    one = draw_texts(uids, entry_K, offsets, np.array([0.5, 0.5]), seed=0, texts="one")
    assert abs(one.stays_I.mean() - 0.5) < 0.03


def test_a_draw_belongs_to_its_uid() -> None:
    entry_K, offsets = np.zeros(50, np.int64), np.arange(51)
    uids = [f"u{n:02}" for n in range(50)]
    whole = draw_texts(uids, entry_K, offsets, np.array([0.5]), seed=3)
    part = draw_texts(uids[20:], entry_K[20:], offsets[:31], np.array([0.5]), seed=3)
    assert whole.stays_I[20:].tolist() == part.stays_I.tolist()
    other = draw_texts(uids, entry_K, offsets, np.array([0.5]), seed=4)
    assert whole.stays_I.tolist() != other.stays_I.tolist()


def test_given_numbers_decide_as_a_loop_over_entries_does() -> None:
    """The published sampling with the numbers handed in: a text stays as soon as a number is below its entry's p."""
    rng = np.random.default_rng(4)
    sets = [rng.choice(6, rng.integers(0, 4), replace=False) for _ in range(60)]
    entry_K, offsets = np.concatenate(sets).astype(np.int64), np.cumsum([0, *map(len, sets)])
    p_M, keep_K, keep_T, choose_T = rng.random(6), rng.random(len(entry_K)), rng.random(60), rng.random(60)
    stays = [any(keep_K[k] < p_M[entry_K[k]] for k in range(offsets[n], offsets[n + 1])) for n in range(60)]
    assert keep_by_entry(entry_K, offsets, p_M, keep_K).tolist() == stays
    uids = [f"u{n // 3:02}" for n in range(60)]
    for draw, keep in (("entry", keep_K), ("text", keep_T)):
        found = draw_texts(uids, entry_K, offsets, p_M, draw=draw, choose_T=choose_T, keep=keep)
        at = 0
        for image in range(20):
            matched = [n for n in range(3 * image, 3 * image + 3) if len(sets[n])]
            if not matched:
                continue
            text = matched[int(choose_T[matched[0]] * len(matched))]
            assert found.uids[at] == uids[text]
            assert found.text_I[at] == text
            assert found.stays_I[at] == (stays[text] if draw == "entry" else keep_T[text] < found.chance_T[text])
            at += 1
        assert at == len(found.uids)
    with pytest.raises(ShapeError, match=r"keep must be \[60\]"):
        draw_texts(uids, entry_K, offsets, p_M, keep=keep_K)
    with pytest.raises(ShapeError, match="a number a match"):
        keep_by_entry(entry_K, offsets, p_M, keep_T)


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="t is 0"):
        entry_probability(np.ones(1, np.uint64), 0)
