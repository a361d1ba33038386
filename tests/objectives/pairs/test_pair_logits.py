"""Dense logits: the losses that they promise to make, with every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.pair_logits import pair_logits
from diptych.objectives.pairs.sigmoid_pairs import sigmoid_pairs

N = 6
GROUP = torch.tensor([3, 1, 3, 2, 2, 3])
KEEP = torch.rand(N, N, generator=torch.Generator().manual_seed(5)) > 0.3


def leaves() -> tuple[Tensor, ...]:
    made = (torch.randn(N, 5, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    numbers = (torch.tensor([x], dtype=torch.float64) for x in (7.0, -2.0))
    return tuple(x.requires_grad_() for x in (*(F.normalize(y, dim=-1) for y in made), *numbers))


@pytest.mark.parametrize(
    "options", [{}, {"group_N": GROUP}, {"group_N": GROUP, "keep_NM": KEEP}, {"group_N": GROUP, "same": "negative"}]
)
def test_both_losses_can_be_made_from_them(options: dict[str, Any]) -> None:
    image, text, scale, bias = leaves()
    z, own = pair_logits(image, text, scale=scale, **options), torch.arange(N)
    ours, _ = info_nce(image, text, scale=scale, tile=4, **options)
    clip = (F.cross_entropy(z, own) + F.cross_entropy(z.T, own)) / 2
    shifted = pair_logits(image, text, scale=scale, bias=bias, **options)
    theirs, _ = sigmoid_pairs(image, text, scale=scale, bias=bias, tile=4, **options)
    siglip = (F.softplus(shifted).sum() - shifted.diagonal().sum()) / N
    for got, want in ((ours, clip), (theirs, siglip)):
        torch.testing.assert_close(got, want)
        wanted = torch.autograd.grad(want, (image, text, scale), retain_graph=True)
        for a, b in zip(torch.autograd.grad(got, (image, text, scale), retain_graph=True), wanted, strict=True):
            torch.testing.assert_close(a, b)


def test_they_are_scaled_cosines_and_minus_infinity_where_left_out() -> None:
    image, text, *_ = leaves()
    z = pair_logits(image, text, scale=1 / 0.07, bias=-9.7, keep_NM=KEEP)
    kept = KEEP | torch.eye(N, dtype=torch.bool)
    assert torch.equal(z == -torch.inf, ~kept)
    torch.testing.assert_close(z[kept], (image @ text.T / 0.07 - 9.7)[kept], rtol=1e-13, atol=1e-13)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pair_logits(image.bfloat16(), text.bfloat16(), scale=9.0).dtype == torch.float32
    with pytest.raises(ShapeError, match="6 images and 3 texts"):
        pair_logits(image, text[:3], scale=1.0)
