import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError
from diptych.data.load.order import GroupedOrder, SourceBlockOrder, WeightedOrder, order, span


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_order_is_a_permutation(seed, epoch, n):
    assert sorted(order(seed, epoch, n).tolist()) == list(range(n))


def test_order_depends_on_seed_and_epoch_and_nothing_else():
    first = order(0, 0, 100).copy()
    order.cache_clear()
    assert (order(0, 0, 100) == first).all()
    assert (order(0, 1, 100) != first).any()
    assert (order(1, 0, 100) != first).any()
    assert order(0, 0, 6).tolist() == [3, 5, 2, 0, 4, 1]  # stays so: stored runs rely on it


@given(st.integers(1, 17), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_span_is_a_slice_of_the_concatenated_epochs(n, start, length):
    whole = [(epoch, int(row)) for epoch in range(130 // n + 1) for row in order(3, epoch, n)]
    epoch_S, row_S = span(3, n, start, start + length)
    assert list(zip(epoch_S.tolist(), row_S.tolist(), strict=True)) == whole[start : start + length]


@given(st.lists(st.floats(0, 10), min_size=2, max_size=30).filter(lambda w: sum(w) > 0.1), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_weighted_order_draws_each_row_as_often_as_its_weight_says(weights, epoch):
    n = len(weights)
    counts = np.bincount(WeightedOrder(tuple(weights))(0, epoch, n), minlength=n)
    expected = np.asarray(weights) * n / sum(weights)
    assert counts.sum() == n
    assert (np.abs(counts - expected) < 1 + 1e-6).all()


def test_weighted_order_is_fair_in_the_long_run():
    draw = WeightedOrder((1.0, 2.0, 0.5, 0.0))
    counts = np.bincount(np.concatenate([draw(0, epoch, 4) for epoch in range(2000)]), minlength=4) / 2000
    np.testing.assert_allclose(counts, [8 / 7, 16 / 7, 4 / 7, 0], atol=0.05)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(2, 5), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_grouped_order_comes_in_blocks_of_one_group_across_epochs(sizes, members, seed):
    groups = np.repeat([f"g{n}" for n in range(len(sizes))], sizes)
    n, times = len(groups), 12
    draw = GroupedOrder(groups.tolist(), members)
    rows = np.concatenate([draw(seed, epoch, n) for epoch in range(times)])
    blocks = rows[: len(rows) // members * members].reshape(-1, members)
    of_block = groups[blocks]
    assert (of_block == of_block[:, :1]).all(), "a block is of one group, also over the seam of two epochs"
    for number, block in enumerate(blocks):
        size = sizes[int(of_block[number, 0][1:])]
        counts = np.bincount(block, minlength=n)
        assert counts.max() <= -(-members // size), "no row again while others of the group have not come"
        assert len(set(block.tolist())) == min(members, size)
    met = np.array([(of_block[:, 0] == f"g{n}").sum() for n in range(len(sizes))])
    assert met.max() - met.min() <= 1, "groups come equally often, whatever their size"
    again = GroupedOrder(groups.tolist(), members)
    assert (again(seed, times - 1, n) == rows[-n:]).all(), "a pure function of its arguments"


def test_grouped_order_goes_through_all_members_before_any_comes_again():
    draw = GroupedOrder(["a"] * 6 + ["b"] * 6, 2)
    rows = np.concatenate([draw(5, epoch, 12) for epoch in range(2)])
    for group in (range(6), range(6, 12)):
        mine = [row for row in rows.tolist() if row in group]
        assert sorted(mine[:6]) == sorted(mine[6:12]) == list(group)
        assert mine[:6] != mine[6:12]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(0, 3), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_blocks_of_one_are_plain_sampling(sizes, seed, epoch):
    groups = np.repeat([f"g{n}" for n in range(len(sizes))], sizes).tolist()
    assert (GroupedOrder(groups, 1)(seed, epoch, len(groups)) == order(seed, epoch, len(groups))).all()


@pytest.mark.parametrize("apart", [2, 3, 4])
def test_groups_kept_apart_meet_once_a_batch_and_equally_often(apart):
    groups, members = np.repeat([f"g{n}" for n in range(13)], 3), 2
    draw = GroupedOrder(groups.tolist(), members, apart=apart)
    rows = np.concatenate([draw(7, epoch, 39) for epoch in range(60)])
    of_block = groups[rows[: len(rows) // members * members].reshape(-1, members)[:, 0]]
    assert all(len(set(of_block[at : at + apart])) == apart for at in range(len(of_block) - apart))
    met = np.unique(of_block, return_counts=True)[1]
    assert met.max() - met.min() <= 1
    loose = GroupedOrder(groups.tolist(), members)
    plain = groups[np.concatenate([loose(7, epoch, 39) for epoch in range(60)])][::members]
    assert any(len(set(plain[at : at + apart])) < apart for at in range(len(plain) - apart)), "the option changes something"


def test_a_group_of_one_row_is_repeated_left_out_or_refused_by_name():
    groups = ["a", "a", "b", "c", "c", "c"]
    assert 2 in np.concatenate([GroupedOrder(groups, 2)(0, epoch, 6) for epoch in range(3)])
    left = np.concatenate([GroupedOrder(groups, 2, small="leave")(0, epoch, 6) for epoch in range(9)])
    assert set(left.tolist()) == {0, 1, 3, 4, 5}
    with pytest.raises(DataError, match="groups of fewer than 2 rows: 1, the first 'b' of 1"):
        GroupedOrder(groups, 2, small="refuse")
    kept = np.concatenate([GroupedOrder(groups, 3, small="leave", least=2)(0, epoch, 6) for epoch in range(9)])
    assert set(kept.tolist()) == {0, 1, 3, 4, 5}, "two rows fill a block of three"
    with pytest.raises(DataError, match="no group has 4 rows"):
        GroupedOrder(groups, 4, small="leave")
    with pytest.raises(ConfigError, match=r"3 groups cannot be kept 2 blocks apart.*expected 6 groups"):
        GroupedOrder(groups, 2, apart=2)
    with pytest.raises(ConfigError, match="small is 'drop'"):
        GroupedOrder(groups, 2, small="drop")


def test_impossible_orders_say_what_is_wrong():
    with pytest.raises(ConfigError, match="no rows"):
        span(0, 0, 0, 4)
    with pytest.raises(ConfigError, match="not negative"):
        WeightedOrder((1.0, -1.0))
    with pytest.raises(ConfigError, match="2 weights for 3 rows"):
        WeightedOrder((1.0, 1.0))(0, 0, 3)
    with pytest.raises(ConfigError, match="blocks of 0 members"):
        GroupedOrder(["a"], 0)
    with pytest.raises(ConfigError, match="1 groups for 3 rows"):
        GroupedOrder(["a"], 1)(0, 0, 3)


def test_rows_of_a_block_may_be_drawn_anew() -> None:
    groups = [f"g{row // 5}" for row in range(40)]
    grouped = GroupedOrder(groups, 4, again=True)
    assert np.array_equal(grouped(3, 0, 40), GroupedOrder(groups, 4, again=True)(3, 0, 40))
    blocks = np.concatenate([grouped(3, epoch, 40) for epoch in range(50)]).reshape(-1, 4)
    assert {len({groups[row] for row in block}) for block in blocks.tolist()} == {1}
    distinct = np.mean([len(set(block)) == 4 for block in blocks.tolist()])
    assert abs(distinct - 5 * 4 * 3 * 2 / 5**4) < 0.05, "one block in five has no row twice"
    assert np.bincount(blocks.ravel()).min() > 20


def test_some_rows_stand_in_every_block_of_their_group() -> None:
    groups = [f"g{row // 7}" for row in range(21)]
    always = [row % 7 == 0 for row in range(21)]
    grouped = GroupedOrder(groups, 4, always=always)
    blocks = np.stack([grouped.block(0, number) for number in range(12)])
    assert all(block[0] % 7 == 0 and len(set(block)) == 4 for block in blocks.tolist())
    first = [block for block in blocks.tolist() if block[0] == 0][:2]
    assert sorted(first[0][1:] + first[1][1:]) == [1, 2, 3, 4, 5, 6], "the others take turns"
    assert GroupedOrder(["a"], 3, always=[True]).block(0, 0).tolist() == [0, 0, 0]
    with pytest.raises(ConfigError, match="always"):
        GroupedOrder(groups, 4, always=[True])


def test_blocks_of_one_source_come_by_its_weight_across_epochs() -> None:
    """115 to 14, as MiniGPT-4 has them, over blocks that run on over the seams of epochs; rows of a third source never come."""
    sources = ["laion"] * 7 + ["cc"] * 40 + ["other"] * 3
    made = SourceBlockOrder(sources, {"laion": 115.0, "cc": 14.0}, 4)
    epochs = [made(0, epoch, 50) for epoch in range(400)]
    assert all(len(rows) == 50 for rows in epochs)
    drawn = [sources[row] for row in np.concatenate(epochs).tolist()]
    blocks = [set(drawn[start : start + 4]) for start in range(0, len(drawn), 4)]
    assert all(len(block) == 1 for block in blocks)
    share = sum(block == {"laion"} for block in blocks) / len(blocks)
    assert abs(share - 115 / 129) < 0.02
    assert "other" not in drawn
    assert set(np.concatenate(epochs).tolist()) == set(range(47))
    assert (made(0, 3, 50) == SourceBlockOrder(sources, {"laion": 115.0, "cc": 14.0}, 4)(0, 3, 50)).all()
    assert (made(1, 3, 50) != made(0, 3, 50)).any()
    with pytest.raises(DataError, match="no row is of source 'coco'"):
        SourceBlockOrder(sources, {"coco": 1.0}, 4)
    with pytest.raises(ConfigError, match="blocks of 0 rows"):
        SourceBlockOrder(sources, {"cc": 1.0}, 0)
