"""DropBlock against loops over places, and where it does nothing."""

from __future__ import annotations

import pytest
import torch

from diptych.core.errors import ConfigError
from diptych.models.layers.drop_block import DropBlock


@pytest.mark.parametrize("side", [1, 2, 3])
def test_squares_go_and_the_rest_grows(side: int) -> None:
    x = torch.randn(3, 4, 7, 9).double()
    torch.manual_seed(side)
    found = DropBlock(0.4, side)(x)
    torch.manual_seed(side)
    begins = torch.rand(3, 7, 9) < 0.4 / side**2
    kept = torch.ones(3, 7, 9).double()
    for image, row, column in begins.nonzero().tolist():
        top, left = row - (side - 1) // 2, column - (side - 1) // 2  # an even square reaches one further down and to the right
        kept[image, max(top, 0) : top + side, max(left, 0) : left + side] = 0
    assert 0.2 < float(kept.mean()) < 0.9
    torch.testing.assert_close(found, x * kept[:, None] / kept.mean())


def test_where_nothing_goes() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert DropBlock(0.5, 3).eval()(x) is x
    assert DropBlock(0.0, 3)(x) is x
    torch.manual_seed(0)
    assert torch.isfinite(DropBlock(0.99, 1)(torch.ones(1, 1, 1, 1))).all()  # nothing is left of the map
    for share, side in ((1.0, 3), (-0.1, 3), (0.3, 0)):
        with pytest.raises(ConfigError, match="expected a share from 0 up to less than 1, and a side of 1 or more"):
            DropBlock(share, side)
