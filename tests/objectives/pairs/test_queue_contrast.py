"""Contrast with a queue alone: against cross-entropy by hand and against InfoNCE with one group for the whole batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.queue_contrast import queue_contrast


def unit(count: int, seed: int, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_it_is_cross_entropy_of_partner_and_queue_and_nothing_of_the_batch() -> None:
    anchor, key, queue = unit(4, 0).requires_grad_(), unit(4, 1), unit(9, 2)
    loss = queue_contrast(anchor, key, anchor @ queue.T, scale=20.0)
    by_hand = torch.stack(
        [F.cross_entropy(20 * torch.cat([key[n : n + 1], queue]) @ anchor[n], torch.tensor(0)) for n in range(4)]
    )
    torch.testing.assert_close(loss, by_hand.mean())
    one_group = torch.zeros(4, dtype=torch.int64)
    form, _ = info_nce(anchor, key, scale=20.0, group_N=one_group, same="mask", extra_text_KD=queue, directions="image_to_text")
    torch.testing.assert_close(loss, form)
    ours, theirs = (torch.autograd.grad(value, anchor)[0] for value in (loss, form))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a: queue_contrast(a, key, a @ queue.T, scale=20.0), (anchor,))


def test_keys_of_the_own_group_can_be_left_out() -> None:
    anchor, key, queue = unit(3, 0), unit(3, 1), unit(5, 2)
    group_N, group_K = torch.tensor([1, 2, 3]), torch.tensor([2, 9, 2, 1, 8])
    loss = queue_contrast(anchor, key, anchor @ queue.T, scale=5.0, group_N=group_N, group_K=group_K, same="mask")
    rows = [
        F.cross_entropy(5 * torch.cat([key[n : n + 1], queue[group_K != group_N[n]]]) @ anchor[n], torch.tensor(0))
        for n in range(3)
    ]
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_an_empty_queue_and_large_scales_stay_finite() -> None:
    anchor = unit(3, 0).requires_grad_()
    empty = queue_contrast(anchor, unit(3, 1), anchor.new_zeros(3, 0), scale=20.0)
    assert empty.item() == 0
    empty.backward()
    assert anchor.grad is not None
    assert anchor.grad.abs().max() == 0
    same = unit(1, 0).expand(3, -1)
    assert torch.isfinite(queue_contrast(same, same, torch.ones(3, 4), scale=1e4))


def test_order_changes_nothing() -> None:
    anchor, key, queue = unit(4, 0), unit(4, 1), unit(9, 2)
    turn, shuffle = torch.tensor([2, 0, 3, 1]), torch.randperm(9)
    torch.testing.assert_close(
        queue_contrast(anchor[turn], key[turn], anchor[turn] @ queue[shuffle].T, scale=9.0),
        queue_contrast(anchor, key, anchor @ queue.T, scale=9.0),
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[N, K\]"):
        queue_contrast(unit(3, 0), unit(3, 1), torch.zeros(2, 5), scale=1.0)
    with pytest.raises(ConfigError, match="mask"):
        queue_contrast(unit(3, 0), unit(3, 1), torch.zeros(3, 5), scale=1.0, same="positive")  # type: ignore[arg-type]
