"""A queue of sparse rows: first in, first out at every offset, its products exact, its state whole."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.sparse_queue import SparseQueue

WORDS = 7


def rows(count: int, seed: int) -> Tensor:
    dense = torch.randn(count, WORDS, generator=torch.Generator().manual_seed(seed)).relu()
    dense[count // 2] = 0  # a row without a word
    return dense


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("batch", range(1, 6))
def test_it_wraps_at_every_offset(size: int, batch: int) -> None:
    """Every size with every batch, twice around, so that each remainder comes up; also batches above the size."""
    queue, naive = SparseQueue(size, WORDS), deque[tuple[Tensor, int]](maxlen=size)
    for step in range(2 * size + 3):
        new = rows(batch, step)
        groups = torch.arange(step * batch, (step + 1) * batch)
        queue.push_(new, groups)
        naive.extend(zip(new, groups.tolist(), strict=True))
        assert len(queue) == len(naive) == min(size, (step + 1) * batch)
        assert torch.equal(queue.dense(), torch.stack([row for row, _ in naive]))
        assert queue.group_K.tolist() == [group for _, group in naive]
        assert int((queue.value_E != 0).sum()) == len(queue.value_E), "zeros are not stored"


def test_products_and_their_gradient_are_those_of_the_dense_queue() -> None:
    queue = SparseQueue(5, WORDS).double()
    queue.push_(rows(4, 0).double(), torch.arange(4))
    anchor = torch.randn(3, WORDS, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(queue.similarities(anchor), anchor @ queue.dense().T)
    assert torch.autograd.gradcheck(queue.similarities, (anchor,))
    assert queue.similarities(anchor.float()).dtype == torch.float32


def test_an_empty_queue_answers_with_nothing() -> None:
    anchor = torch.randn(3, WORDS, requires_grad=True)
    found = SparseQueue(5, WORDS).similarities(anchor)
    assert found.shape == (3, 0)
    found.sum().backward()
    assert anchor.grad is not None


def test_half_precision_products_are_widened() -> None:
    queue = SparseQueue(5, WORDS)
    queue.push_(rows(4, 0), torch.arange(4))
    anchor = torch.randn(3, WORDS)
    with torch.autocast("cpu", torch.bfloat16):
        found = queue.similarities(anchor)
    torch.testing.assert_close(found, anchor @ queue.dense().T)


def test_a_random_start_is_of_unit_vectors_that_leave_one_by_one() -> None:
    torch.manual_seed(0)
    queue = SparseQueue(6, WORDS, start="random")
    torch.testing.assert_close(queue.dense().norm(dim=1), torch.ones(6))
    assert (queue.group_K == -1).all()
    before = queue.dense()
    queue.push_(rows(4, 1), torch.arange(4))
    assert torch.equal(queue.dense()[:2], before[4:])


def test_state_returns_into_a_queue_of_any_filling() -> None:
    queue, other = SparseQueue(5, WORDS), SparseQueue(5, WORDS, start="random")
    queue.push_(rows(4, 0), torch.arange(4))
    state = queue.state_dict()
    other.resize_({name: tensor.shape for name, tensor in state.items()})
    other.load_state_dict(state)
    assert torch.equal(other.dense(), queue.dense())
    assert torch.equal(other.group_K, queue.group_K)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="size of a queue is 0"):
        SparseQueue(0, WORDS)
    with pytest.raises(ConfigError, match="empty"):
        SparseQueue(2, WORDS, start="zeros")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="takes rows"):
        SparseQueue(2, WORDS).push_(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ShapeError, match="compared with rows"):
        SparseQueue(2, WORDS).similarities(torch.zeros(2, 3))
