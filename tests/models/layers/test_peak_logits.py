"""Peaks over places: those of the whole tensor of logits, with its gradients, whatever the tile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.models.layers.max_logits import max_logits


def made(rows: int = 3, places: int = 5, width: int = 4, words: int = 11) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=chance, dtype=torch.float64) for shape in ((rows, places, width), (words, width), (words,))
    )
    mask = torch.arange(places) < torch.tensor([[places], [2], [1]])[:rows]
    return x.requires_grad_(), mask, weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("tile", [1, 40, 10_000])
def test_they_are_the_maximum_over_real_places(tile: int) -> None:
    x, mask, weight, bias = made()
    peak, place = max_logits(x, mask, weight, bias, tile=tile)
    logits = (x @ weight.T + bias).masked_fill(~mask[..., None], float("-inf"))
    torch.testing.assert_close(peak, logits.amax(1))
    assert torch.equal(place, logits.argmax(1))
    factor = torch.randn(peak.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((peak * factor).sum(), (x, weight, bias))
    theirs = torch.autograd.grad((logits.amax(1) * factor).sum(), (x, weight, bias))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert ours[0][1, 2:].abs().max() == 0, "no gradient reaches padding"


def test_gradients_agree_with_finite_differences() -> None:
    x, mask, weight, bias = made()
    assert torch.autograd.gradcheck(lambda *given: max_logits(given[0], mask, *given[1:], tile=40)[0], (x, weight, bias))


def test_padding_never_wins_however_large() -> None:
    x, mask, weight, bias = made()
    loud = x.detach().clone()
    loud[~mask] = 1e6
    torch.testing.assert_close(max_logits(loud, mask, weight, bias)[0], max_logits(x, mask, weight, bias)[0])


def test_under_autocast_the_product_is_in_half_precision() -> None:
    x, mask, weight, bias = (part.float() if part.is_floating_point() else part for part in made())
    with torch.autocast("cpu", torch.bfloat16):
        peak, _ = max_logits(x, mask, weight, bias)
    assert peak.dtype == torch.bfloat16
    torch.testing.assert_close(peak.float(), max_logits(x, mask, weight, bias)[0], rtol=0.05, atol=0.05)


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, mask, weight, bias = made()
    with pytest.raises(ShapeError, match=r"words \[V, D\]"):
        max_logits(x, mask, weight[:, :3], bias)
