"""Kinds of training follow Zipf's law, test pictures show every kind alike, and texts say what is shown."""

from __future__ import annotations

from collections import Counter

import numpy as np

from diptych.worlds.long_tail import KINDS, _law, long_tail, rarest
from diptych.worlds.resolve import resolve


def test_counts_follow_the_law() -> None:
    world = long_tail(6000, seed=3).world
    counts = Counter(world.kind("train", row) for row in range(6000))  # type: ignore[attr-defined]
    order, up_to = _law(3, 1.2)
    share = np.diff(up_to, prepend=0.0)
    assert np.isclose(share[0] / share[1], 2**1.2)
    expected = dict(zip(order, share * 6000, strict=True))
    chi = sum((counts[kind] - expected[kind]) ** 2 / expected[kind] for kind in KINDS)
    assert chi < 95, "chi-squared with 59 degrees of freedom exceeds 95 in one case of a thousand"


def test_test_rows_show_every_kind_alike_and_texts_name_it() -> None:
    whole = resolve("world:long_tail?n=300&test=120")
    assert set(Counter(whole.split("test").column("kind")).values()) == {2}
    train = whole.split("train")
    assert all(train[row].extras["kind"] in train[row].texts[0].string for row in range(50))
    pool = train.to_pool()
    counts = Counter(pool.column("kind"))
    rare = rarest(pool)
    assert len(rare) == 20
    assert max(counts[kind] for kind in rare) <= min(counts[kind] for kind in KINDS if kind not in rare)
