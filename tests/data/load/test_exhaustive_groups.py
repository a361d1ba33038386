"""Batches of different groups until their rows are used up: KEP's released sampler, against its rules."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.data.load.exhaustive_groups import ExhaustiveGroupOrder

SIZES = {"a": 22, "b": 8, "c": 5, "d": 9, "e": 1, "f": 30}
BLOCKS = {"a": 3, "b": 1, "c": 1, "d": 2, "e": 1, "f": 5}
"""By hand: one block of a group below eight rows; else the others of a main row in sevens, the rest filled."""


def rows() -> tuple[list[str], list[bool]]:
    groups = [name for name, size in SIZES.items() for _ in range(size)]
    return groups, [groups.index(name) == at for at, name in enumerate(groups)]


def test_groups_are_cut_into_blocks_as_released() -> None:
    groups, always = rows()
    order = ExhaustiveGroupOrder(groups, 8, 2, always=always)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        for name, own in zip(SIZES, order.rows, strict=True):
            blocks = order.cut(own, rng)
            assert len(blocks) == BLOCKS[name]
            assert all(len(block) == 8 and set(block) <= set(own) for block in blocks)
            assert len(own) < 8 or all(groups.index(name) in block for block in blocks), "the main row is in every block"
            assert set(np.concatenate(blocks)) == set(own), "none is left out"
            others = Counter(row for block in blocks if len(set(block)) == 8 for row in block if row != groups.index(name))
            assert set(others.values()) <= {1}, "none comes twice"
    assert order.blocks == 12, "thirteen blocks in batches of two"


def test_batches_hold_different_groups_until_too_few_are_left() -> None:
    groups, always = rows()
    order = ExhaustiveGroupOrder(groups, 8, 2, always=always)
    shares: Counter[str] = Counter()
    for turn in range(60):
        blocks = [order.block(3, number) for number in range(turn * order.blocks, (turn + 1) * order.blocks)]
        names = [groups[block[0]] for block in blocks]
        left, begun = dict(BLOCKS), 0
        for pair in zip(names[::2], names[1::2], strict=True):
            assert pair[0] != pair[1]
            if sum(count > 0 for count in left.values()) < 2:
                left, begun = dict(BLOCKS), begun + 1
            for name in pair:
                assert left[name] > 0, "a round goes on until one group alone has blocks"
                left[name] -= 1
        assert begun <= 2
        shares.update(names)
    assert shares["f"] > 2 * shares["b"]
    assert shares["a"] > shares["d"] > shares["c"]


def test_an_epoch_is_a_window_of_the_blocks() -> None:
    groups, always = rows()
    order = ExhaustiveGroupOrder(groups, 8, 2, always=always)
    n = len(groups)
    stream = np.concatenate([order.block(0, number) for number in range(40)])
    for epoch in range(4):
        assert np.array_equal(order(0, epoch, n), stream[epoch * n : (epoch + 1) * n])
    assert not np.array_equal(order(0, 0, n), order(1, 0, n))
    plain = ExhaustiveGroupOrder(groups, 8, 2, always=[False] * n)
    assert set(np.concatenate(plain.cut(plain.rows[0], np.random.default_rng(0)))) == set(plain.rows[0])
    with pytest.raises(ConfigError, match="6 groups of 75 rows for batches of 7 groups of 8 rows"):
        ExhaustiveGroupOrder(groups, 8, 7, always=always)
