"""Hidden words: the share is exact, marks and padding are never asked for, and each text has its own chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.data.text.tokens.masked_words import mask_words, most_masked

SPECIAL, WORDS = (0, 1, 2), 50


def texts(lengths: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.int64), torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        words = 3 + torch.randint(0, WORDS - 3, (length,), generator=torch.Generator().manual_seed(row))
        ids[row, : length + 2] = torch.cat([torch.tensor([1]), words, torch.tensor([2])])
        mask[row, : length + 2] = True
    return ids, mask


def masked(ids: torch.Tensor, mask: torch.Tensor, seed: int = 0, **options: Any) -> Any:
    rngs = [np.random.default_rng([seed, row]) for row in range(len(ids))]
    return mask_words(ids, mask, rngs, special=SPECIAL, vocab_size=WORDS, **options)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.floats(0.05, 0.6), st.integers(0, 1000))
def test_exactly_the_share_of_the_words_is_asked_for(lengths: list[int], share: float, seed: int) -> None:
    ids, mask = texts(lengths, 22)
    found = masked(ids, mask, seed, share=share)
    most = most_masked(22, share)
    for row, length in enumerate(lengths):
        asked = found.word_BM[row] >= 0
        assert int(asked.sum()) == (min(most, max(1, round(share * length))) if length else 0)
        places = found.place_BM[row][asked]
        assert len(set(places.tolist())) == len(places)
        assert all(1 <= place <= length for place in places.tolist()), "marks and padding are never asked for"
        assert torch.equal(found.word_BM[row][asked], ids[row, places])
        untouched = torch.ones(22, dtype=torch.bool)
        untouched[places] = False
        assert torch.equal(found.ids_BL[row, untouched], ids[row, untouched])
        assert not found.hidden_BL[row, untouched].any()


def test_eighty_ten_ten() -> None:
    ids, mask = texts([20] * 2000, 22)
    found = masked(ids, mask, share=0.5)
    asked = found.word_BM >= 0
    hidden = found.hidden_BL.gather(1, found.place_BM)[asked]
    changed = (found.ids_BL != ids).gather(1, found.place_BM)[asked] & ~hidden
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert changed.float().mean().item() == pytest.approx(0.1 * (1 - 1 / WORDS), abs=0.01)


def test_a_row_depends_on_its_own_generator_alone() -> None:
    ids, mask = texts([9, 12, 7], 22)
    whole = masked(ids, mask)
    rngs = [np.random.default_rng([0, 2])]
    alone = mask_words(ids[2:], mask[2:], rngs, special=SPECIAL, vocab_size=WORDS)
    assert torch.equal(whole.ids_BL[2:], alone.ids_BL)
    assert torch.equal(whole.word_BM[2:], alone.word_BM)


def test_a_share_of_nothing_or_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="share of masked words is 0"):
        masked(*texts([5], 10), share=0.0)
