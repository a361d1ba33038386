"""Hidden units: all pieces of a unit or none, the share is one of units, and what overlaps is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.masked_units import MASK, UnitPlan, mask_units, masked_unit_indices, plan_units, word_units
from diptych.data.text.tokens.whole_words import word_starts

SPECIAL, WORDS = (0, 1, 2), 50
UNITS = [[[1, 2], [4], [6, 7, 8]], [[2, 3]], [], [[], [1]]]


def rngs(seed: int, rows: int = 4) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(rows)]


def texts() -> torch.Tensor:
    ids = torch.randint(3, WORDS, (4, 10), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, 9] = 1, 2
    return ids


def plan(seed: int = 0, **shares: float) -> UnitPlan:
    return plan_units(texts(), UNITS, rngs(seed), special=SPECIAL, vocab_size=WORDS, **shares)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_a_share_of_the_units_is_hidden_each_as_a_whole(seed: int, share: float) -> None:
    ids = texts()
    found = mask_units(ids, plan(seed, masked=1.0, random=0.0), share)
    for row, units in enumerate(UNITS):
        asked = set(found.place_BM[row][found.word_BM[row] >= 0].tolist())
        whole = [unit for unit in units if unit and set(unit) <= asked]
        assert asked == {place for unit in whole for place in unit}, "no unit is hidden in part"
        there = [unit for unit in units if unit]
        assert len(whole) == (max(1, int(np.floor(share * len(there) + 0.5))) if there else 0)
        assert set(torch.nonzero(found.hidden_BL[row])[:, 0].tolist()) == asked
        for place, word in zip(found.place_BM[row].tolist(), found.word_BM[row].tolist(), strict=True):
            assert word == -1 or word == int(ids[row, place])
    assert torch.equal(found.ids_BL, ids), "a mask is not an id"
    assert [len(units) for units in masked_unit_indices(found, UNITS)] == [
        sum(bool(unit) and bool(set(unit) & set(found.place_BM[row][found.word_BM[row] >= 0].tolist())) for unit in units)
        for row, units in enumerate(UNITS)
    ]


def test_more_is_hidden_only_where_less_was() -> None:
    made, ids = plan(3), texts()
    before: set[tuple[int, int]] = set()
    for share in (0.2, 0.4, 0.6, 0.8, 1.0):
        found = mask_units(ids, made, torch.tensor(share))
        now = {(row, int(p)) for row in range(4) for p in found.place_BM[row][found.word_BM[row] >= 0]}
        assert before <= now
        before = now
    assert before == {(0, p) for p in (1, 2, 4, 6, 7, 8)} | {(1, 2), (1, 3), (3, 1)}


def test_every_unit_is_first_equally_often_however_long() -> None:
    first = [masked_unit_indices(mask_units(texts(), plan(seed), 0.0), UNITS)[0] for seed in range(600)]
    counts = np.bincount([units[0] for units in first], minlength=3)
    assert all(len(units) == 1 for units in first)
    assert counts.min() > 150, counts


def test_eighty_ten_ten_of_tokens() -> None:
    ids = torch.full((400, 10), 7)
    made = plan_units(ids, [[list(range(10))]] * 400, rngs(0, 400), special=SPECIAL, vocab_size=WORDS)
    found = mask_units(ids, made, 1.0)
    assert found.hidden_BL.double().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (found.ids_BL != 7).double().mean().item() == pytest.approx(0.1 * (1 - 1 / WORDS), abs=0.02)
    assert (found.word_BM == 7).all(), "tokens that stay are asked for, too"
    assert (made.stands_BM == MASK).double().mean().item() == pytest.approx(0.8, abs=0.02)


def test_overlapping_units_are_touched_by_one_another() -> None:
    units = [[[1, 2, 3], [3, 4], [6]]]
    ids = texts()[:1]
    for seed in range(20):
        made = plan_units(ids, units, rngs(seed, 1), special=SPECIAL, vocab_size=WORDS)
        found = mask_units(ids, made, 0.0)
        lost = masked_unit_indices(found, units)[0]
        hidden = set(found.place_BM[0][found.word_BM[0] >= 0].tolist())
        assert (hidden, lost) in [({1, 2, 3}, (0, 1)), ({3, 4}, (0, 1)), ({6}, (2,))]


def test_special_tokens_are_never_hidden_and_words_keep_their_pieces() -> None:
    words = Tokenizer.from_spec("clip")
    encoded = words.encode(["a tyrannosaurus in yellow", ""], 10)
    units = word_units(torch.from_numpy(word_starts(words, encoded.ids_BL)), torch.from_numpy(encoded.mask_BL))
    assert units[0] == [[0], [1], [2, 3, 4], [5], [6], [7]]
    made = plan_units(
        torch.from_numpy(encoded.ids_BL),
        units,
        rngs(0, 2),
        special=[words.pad_id, *words.prefix, *words.suffix],
        vocab_size=words.vocab_size,
    )
    assert made.count_B.tolist() == [4, 0]
    assert sorted(made.place_BM[0].tolist()) == [1, 2, 3, 4, 5, 6]


def test_spans_of_characters_find_their_pieces() -> None:
    words = Tokenizer.from_spec("clip")
    text = "A man in a dark-blue tyrannosaurus  jacket"
    clean = words.cleaned(text)
    begin = clean.index("dark-blue")
    span = (begin, len(clean))
    places = words.span_places(text, [span, (0, 5)], 30)
    ids = words.encode([text], 30).ids_BL[0]
    assert words.decode(ids[places[0]]).replace(" ", "") == clean[begin:].replace(" ", "")
    assert words.decode(ids[places[1]]) == "a man"
    assert words.span_places(text, [span], 5) == [[]], "cut off"


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"share of hidden units is 1\.5"):
        mask_units(texts(), plan(), 1.5)
    with pytest.raises(ConfigError, match="add up to 1 at most"):
        plan(masked=0.9, random=0.2)
