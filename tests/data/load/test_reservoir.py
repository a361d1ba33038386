"""A reservoir told from uids: what a reservoir may hold, and as evenly as one that samples pass by."""

from __future__ import annotations

import numpy as np

from diptych.data.load.reservoir import reservoir_limits, reservoir_numbers

UIDS = [f"u{n}" for n in range(60)]
PART = [n // 20 for n in range(60)]


def held(seed: int, size: int, uids: list[str] = UIDS, part: list[int] = PART) -> list[set[str]]:
    """What is in the reservoir when each part begins."""
    number = reservoir_numbers(uids, seed)
    limits = reservoir_limits(number, part, 3, size)
    return [{u for u, n, p in zip(uids, number, part, strict=True) if 0 <= p < k and n < limits[k]} for k in range(3)]


def by_passing(rng: np.random.Generator, size: int, count: int) -> list[int]:
    """Algorithm R: each item that passes takes a random place, as long as there is one."""
    kept: list[int] = []
    for item in range(count):
        place = item if len(kept) < size else int(rng.integers(item + 1))
        if place < size:
            kept[place : place + 1] = [item]
    return kept


def test_it_holds_so_many_of_what_has_passed_and_never_takes_back_what_it_dropped() -> None:
    for seed in range(20):
        first, second, third = held(seed, 15)
        assert not first
        assert (len(second), len(third)) == (15, 15)
        assert second <= set(UIDS[:20])
        assert third <= set(UIDS[:40])
        assert third & set(UIDS[:20]) <= second
    assert [len(kept) for kept in held(0, 30)] == [0, 20, 30]
    assert [len(kept) for kept in held(0, 30, part=[-1] * 20 + PART[20:])] == [0, 0, 20], "a sample of no part never passes"


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    order = np.random.default_rng(0).permutation(60)
    assert held(3, 10, [UIDS[n] for n in order], [PART[n] for n in order]) == held(3, 10)
    assert held(3, 10) != held(4, 10)


def test_every_sample_is_held_as_often_as_by_reservoir_sampling() -> None:
    runs, size = 4000, 10
    ours, theirs = np.zeros(40), np.zeros(40)
    parts_of_ours, rng = [], np.random.default_rng(1)
    for seed in range(runs):
        kept = [int(uid[1:]) for uid in held(seed, size)[2]]
        ours[kept] += 1
        parts_of_ours.append(sum(n < 20 for n in kept))
        theirs[by_passing(rng, size, 40)] += 1
    deviation = np.sqrt(runs * 0.25 * 0.75)
    for counts in (ours, theirs):
        assert np.abs(counts - runs * size / 40).max() < 4 * deviation
    wanted = 10 * 0.25 * (30 / 39)  # the variance of a hypergeometric draw of 10 of 40, 20 of them from the first part
    assert abs(np.var(parts_of_ours) / wanted - 1) < 0.1
