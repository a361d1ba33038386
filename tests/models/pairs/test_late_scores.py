"""Scores by tokens against the loops of their definition, and against the loss that trains for them; padding wins nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diptych.models.pairs.late.scores import late_scores
from diptych.objectives.pairs.late_interaction import late_interaction

N, M, P, L, D = 6, 6, 5, 7, 4
PATCH_MASK = torch.arange(P) < torch.tensor([5, 5, 4, 1, 5, 2])[:, None]
WORD_MASK = torch.arange(L) < torch.tensor([7, 1, 3, 2, 5, 4])[:, None]


def made(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


PATCH, WORD = made(N, P, D, seed=1), made(M, L, D, seed=2)


@pytest.mark.parametrize("cells", [1, 60, 1 << 21])
def test_scores_equal_the_loops(cells: int) -> None:
    by_image, by_text = late_scores(PATCH, WORD, PATCH_MASK, WORD_MASK, cells=cells)
    for i in range(N):
        patches = [PATCH[i, p] for p in range(P) if PATCH_MASK[i, p]]
        for j in range(M):
            words = [WORD[j, w] for w in range(L) if WORD_MASK[j, w]]
            found = [max(float(p @ w) for w in words) for p in patches]
            asked = [max(float(p @ w) for p in patches) for w in words]
            assert by_image[i, j].item() == pytest.approx(sum(found) / len(found), abs=1e-14)
            assert by_text[i, j].item() == pytest.approx(sum(asked) / len(asked), abs=1e-14)


def test_the_loss_is_the_cross_entropy_of_these_scores() -> None:
    by_image, by_text = late_scores(PATCH, WORD, PATCH_MASK, WORD_MASK)
    expected = (F.cross_entropy(9.0 * by_image, torch.arange(N)) + F.cross_entropy(9.0 * by_text.T, torch.arange(N))) / 2
    loss, _ = late_interaction(PATCH, WORD, scale=9.0, patch_mask_NP=PATCH_MASK, word_mask_NL=WORD_MASK)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-13)


def test_padding_wins_nothing_whatever_it_holds() -> None:
    """A padded zero would beat a negative cosine."""
    opposite = made(1, 1, D, seed=5)
    word = torch.cat([opposite, torch.zeros(1, 1, D, dtype=torch.float64)], dim=1)
    patch = torch.cat([-opposite, torch.full((1, 1, D), 1e4, dtype=torch.float64)], dim=1)
    real = torch.tensor([[True, False]])
    for score in late_scores(patch, word, real, real):
        assert score.item() == pytest.approx(-1.0, abs=1e-12)
