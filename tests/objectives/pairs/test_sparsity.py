"""The FLOPS regulariser against sentence-transformers and by hand."""

from __future__ import annotations

import pytest
import torch
from sentence_transformers.sparse_encoder.losses import FlopsLoss

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.sparsity import flops


def test_it_is_the_sum_over_words_of_the_squared_mean() -> None:
    weight = torch.rand(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_hand = sum((weight[:, v].sum().item() / 5) ** 2 for v in range(9))
    assert flops(weight).item() == pytest.approx(by_hand, rel=1e-14)
    theirs = FlopsLoss(model=None).compute_loss_from_embeddings(weight)
    torch.testing.assert_close(flops(weight), theirs)
    assert torch.autograd.gradcheck(flops, (weight.requires_grad_(),))


def test_signs_and_order_do_not_matter_and_spread_does() -> None:
    weight = torch.rand(4, 6)
    torch.testing.assert_close(flops(-weight.flip(0)), flops(weight))
    same, apart = torch.zeros(4, 4), torch.eye(4)
    same[:, 0] = 1
    assert flops(same).item() == pytest.approx(1.0)
    assert flops(apart).item() == pytest.approx(0.25)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ShapeError, match="an item at least"):
        flops(torch.zeros(0, 4))
    with pytest.raises(ConfigError, match="process"):
        flops(torch.zeros(2, 4), over="all")  # type: ignore[arg-type]
