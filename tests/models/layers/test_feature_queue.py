"""The ring of features against a plain list, for any sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.feature_queue import FeatureQueue


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=8))
def test_it_holds_the_newest_rows_of_any_pushes(size: int, pushes: list[int]) -> None:
    queue, plain = FeatureQueue(size, 2), []
    for count in pushes:
        first = len(plain)
        rows = torch.arange(first, first + count)
        queue.push_(torch.stack([rows, -rows], 1).float(), rows)
        plain += rows.tolist()
        row_KD, group_K = queue.held()
        assert sorted(group_K.tolist()) == plain[-size:]
        assert len(queue) == len(row_KD) == min(size, len(plain))
        torch.testing.assert_close(row_KD, torch.stack([group_K, -group_K], 1).float())


@given(st.integers(1, 7), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 5))
def test_a_queue_loaded_in_the_middle_goes_on_as_if_it_had_not_stopped(size: int, pushes: list[int], stop: int) -> None:
    whole, first = FeatureQueue(size, 3), FeatureQueue(size, 3)
    rows = [torch.randn(count, 3, generator=torch.Generator().manual_seed(n)) for n, count in enumerate(pushes)]
    for n, row in enumerate(rows):
        whole.push_(row, torch.full((len(row),), n))
        if n == min(stop, len(rows) - 1):
            again = FeatureQueue(size, 3)
            again.load_state_dict(first.state_dict())
            first = again
        first.push_(row, torch.full((len(row),), n))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]), name


def test_what_was_handed_out_does_not_change() -> None:
    queue = FeatureQueue(2, 1)
    queue.push_(torch.ones(2, 1), torch.zeros(2))
    row_KD, _ = queue.held()
    queue.push_(torch.full((2, 1), 5.0), torch.zeros(2))
    assert row_KD.tolist() == [[1.0], [1.0]]
    assert queue.held()[0].tolist() == [[5.0], [5.0]]


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"takes rows \[N, 3\]"):
        FeatureQueue(4, 3).push_(torch.ones(2, 2), torch.ones(2))
    with pytest.raises(ConfigError, match="expected 1 or more"):
        FeatureQueue(0, 3)


def test_a_queue_that_starts_full_of_random_vectors_forgets_them_in_turn() -> None:
    queue = FeatureQueue(4, 3, start="random")
    row_KD, group_K = queue.held()
    torch.testing.assert_close(row_KD.norm(dim=1), torch.ones(4))
    assert group_K.tolist() == [-1] * 4
    queue.push_(torch.ones(3, 3), torch.arange(3))
    after_KD, group_K = queue.held()
    assert group_K.tolist() == [0, 1, 2, -1]
    assert torch.equal(after_KD[3], row_KD[3])
    with pytest.raises(ConfigError, match="a queue starts"):
        FeatureQueue(4, 3, start="full")  # type: ignore[arg-type]
