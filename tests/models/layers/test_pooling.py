"""One vector from many tokens, against a loop over rows."""

from __future__ import annotations

import torch

from diptych.models.layers.pooling import first_position, last_real, mean_pool, pool_at


def test_padding_has_no_share_in_the_mean_and_a_row_of_padding_is_zero() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 5, 4)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])
    pooled = mean_pool(tokens, mask)
    torch.testing.assert_close(pooled[0], tokens[0].mean(0))
    torch.testing.assert_close(pooled[1], (tokens[1, 0] + tokens[1, 2]) / 2)
    assert pooled[2].tolist() == [0.0] * 4


def test_the_first_of_several_ends_and_the_last_real_token_are_read() -> None:
    torch.manual_seed(0)
    tokens, ids = torch.randn(3, 5, 4), torch.tensor([[7, 9, 2, 9, 2], [2, 7, 9, 9, 9], [8, 8, 8, 8, 2]])
    assert first_position(ids, 2).tolist() == [2, 0, 4]
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False, True, True, False, False]])
    assert last_real(mask).tolist() == [4, 1, 2]
    read = pool_at(tokens, last_real(mask))
    assert read.shape == (3, 4)
    for row, place in enumerate((4, 1, 2)):
        assert torch.equal(read[row], tokens[row, place])
