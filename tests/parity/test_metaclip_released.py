"""MetaCLIP's matching and balance on a small corpus: what the released code found, counted and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ahocorasick_rs", reason="the extra curate is not installed")

from diptych.curate.text.balance import entry_probability, keep_by_entry, keep_probability, share_below, threshold_for
from diptych.curate.text.matching import EntryMatcher
from diptych.curate.text.word_boundaries import Rule

STORED = json.loads((Path(__file__).parent / "released" / "metaclip_released.json").read_text(encoding="utf-8"))


def flat(matches: list[list[int]]) -> tuple[Any, Any]:
    """Entries of all texts one after the other, and where each text's begin."""
    return np.array([entry for one in matches for entry in one], np.int64), np.cumsum([0, *map(len, matches)])


@pytest.mark.parametrize("rule", ["released", "multilingual"])
def test_entries_of_every_text_equal_the_release(parity: Any, rule: Rule) -> None:
    text_M, entry_M = EntryMatcher(STORED["entries"], rule=rule).match(STORED["texts"])
    found = [entry_M[text_M == text].tolist() for text in range(len(STORED["texts"]))]
    assert found == STORED[rule]
    table = np.zeros((2, len(STORED["texts"]), len(STORED["entries"])))
    table[0, text_M, entry_M] = 1
    for text, entries in enumerate(STORED[rule]):
        table[1, text, entries] = 1
    parity(
        "metaclip",
        "which entries stand in which texts",
        "facebookresearch/MetaCLIP at f47f784, both spacings",
        [table],
        tolerance=0.0,
    )


def test_probabilities_thresholds_and_draws_equal_the_release(parity: Any) -> None:
    entry_K, offset_T1 = flat(STORED["released"])
    count_M = np.bincount(entry_K, minlength=len(STORED["entries"])).astype(np.uint64)
    p_M = entry_probability(count_M, STORED["t"])
    pairs = [(p_M, STORED["probability"])]
    pairs.append(([threshold_for(count_M, share) for share in STORED["shares"]], STORED["thresholds"]))
    pairs.append(([share_below(count_M, t) for t in STORED["cuts"]], STORED["tails"]))
    pairs.append((keep_by_entry(entry_K, offset_T1, p_M, np.array(STORED["numbers"])), STORED["stays"]))
    assert 0 < sum(STORED["stays"]) < sum(map(bool, STORED["released"]))
    parity(
        "metaclip",
        "probabilities, thresholds, tail shares and draws",
        "facebookresearch/MetaCLIP at f47f784",
        pairs,
        tolerance=1e-12,
    )


def test_the_chance_of_a_text_is_the_mean_over_many_released_draws(parity: Any) -> None:
    """The closed form against draws entry by entry: 20,000 rounds, five standard deviations."""
    entry_K, offset_T1 = flat(STORED["released"])
    p_M = np.array(STORED["probability"])
    rng, rounds = np.random.default_rng(0), 20_000
    kept = sum(keep_by_entry(entry_K, offset_T1, p_M, rng.random(len(entry_K))) for _ in range(rounds)) / rounds
    chance = keep_probability(entry_K, offset_T1, p_M)
    assert (np.abs(kept - chance) <= 5 * np.sqrt(chance * (1 - chance) / rounds)).all()
    parity(
        "metaclip",
        "chance of each text in closed form",
        "20,000 rounds of draws entry by entry",
        [(kept, chance)],
        tolerance=0.02,
    )
