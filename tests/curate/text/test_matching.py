"""Matching against the plain loop over entries and texts; the spacing rules on cases worked out by hand."""

from __future__ import annotations

import re
import zlib

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ahocorasick_rs", reason="the extra curate is not installed")

from diptych.core.errors import ConfigError
from diptych.curate.text.matching import EntryMatcher, MatchEntries
from diptych.curate.text.word_boundaries import RULES, Rule, pattern, prepared

SIGNS = ",.;:?!`"


def released(text: str) -> str:
    """The published spacing, step by step."""
    for sign in SIGNS:
        text = text.replace(sign, f" {sign} ")
    for blank in "\t\n\r":
        text = text.replace(blank, " ")
    return f" {text} "


def cut(text: str) -> list[str]:
    """Tokens of plain English: runs of word characters, single signs, runs of white space as one blank."""
    return [" " if token.isspace() else token for token in re.findall(r"\s+|\w+|[^\w\s]", text)]


def stands_in(entry: str, text: str) -> bool:
    want, have = cut(entry.strip()), cut(text)
    return any(have[i : i + len(want)] == want for i in range(len(have) - len(want) + 1))


def plain_loop(entries: list[str], texts: list[str], rule: Rule) -> list[tuple[int, int]]:
    def found(entry: str, text: str) -> bool:
        return f" {entry} " in released(text) if rule == "released" else stands_in(entry, text)

    return [(n, e) for n, text in enumerate(texts) for e, entry in enumerate(entries) if entry.strip() and found(entry, text)]


def matched(entries: list[str], texts: list[str], **options) -> list[tuple[int, int]]:
    text_M, entry_M = EntryMatcher(entries, **options).match(texts)
    return list(zip(text_M.tolist(), entry_M.tolist(), strict=True))


pieces = st.lists(
    st.sampled_from(["a", "red", "car", "Red", "U", "S", ".", ",", " ", "  ", "\t", "\n", "(", ")", "-", "'s", "x1"]), max_size=9
)
strings = pieces.map("".join)


@given(st.lists(strings, max_size=6, unique=True), st.lists(strings, max_size=5))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("rule", ["tokens", "released"])
def test_equals_the_plain_loop(rule: Rule, entries: list[str], texts: list[str]) -> None:
    assert matched(entries, texts, rule=rule) == plain_loop(entries, texts, rule)


@pytest.mark.parametrize("rule", RULES)
def test_an_entry_with_a_line_end_does_not_reach_into_the_next_text(rule: Rule) -> None:
    """Under the first rule white space is white space, so "a" and a line end and "b" is "a b"; under the others it matches nothing."""
    found = matched(["\n a", "a \n b"], ["", "a", "x a", "b", "a b"], rule=rule)
    assert found == ([(1, 0), (2, 0), (4, 0), (4, 1)] if rule == "tokens" else [])


@given(st.lists(strings, max_size=6, unique=True), st.lists(strings, max_size=5))
@settings(max_examples=200, deadline=None)
def test_tokens_find_whatever_the_released_rule_finds_of_entries_without_signs(entries: list[str], texts: list[str]) -> None:
    entries = [" ".join(entry.split()) for entry in entries if not set(entry) & set(SIGNS)]
    assert set(matched(entries, texts, rule="released")) <= set(matched(entries, texts, rule="tokens"))


def test_all_matches_not_the_longest_one() -> None:
    assert matched(["car", "red", "red car"], ["a red car"]) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("entry", "text", "tokens", "released"),
    [
        ("U.S.", "the U.S. army", True, False),
        ("St. Louis", "in St. Louis, 1904", True, False),
        ("dog", "a (dog)", True, False),
        ("dog", "a dog.", True, True),
        ("car", "carpet", False, False),
        ("red car", "a red  car", True, False),
        ("猫", "我的猫睡了", True, False),
        ("हि", "हिन्दी", False, False),
        ("dog", "Dog", False, False),
    ],
)
def test_what_the_rules_say(entry: str, text: str, tokens: bool, released: bool) -> None:
    assert bool(matched([entry], [text])) is tokens
    assert bool(matched([entry], [text], rule="released")) is released


def test_the_multilingual_rule_is_open_at_the_characters_of_the_released_code() -> None:
    """MetaCLIP f47f784, is_cjk_or_similar at every code point: how many, and their CRC-32."""
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    bits = bytes(line[:1] != b" " for line in pattern([chr(point) for point in points], "multilingual"))
    assert (sum(bits), zlib.crc32(bits)) == (89_689, 679_875_179)
    assert matched(["ねこ", "_x"], ["黒いねこ", "ねこ", "a_x b"], rule="multilingual") == [(1, 0), (2, 1)]


def test_scripts_without_blanks_in_the_multilingual_rule() -> None:
    assert matched(["猫", "cat"], ["我的猫睡了", "concatenate"], rule="multilingual") == [(0, 0)]


def test_case_and_one_accent_in_two_spellings() -> None:
    assert matched(["Gas", "gas"], ["GAS"], ignore_case=True) == [(0, 0), (0, 1)]
    assert matched(["caf\u00e9"], ["a cafe\u0301"]) == [(0, 0)]


def test_numbers_of_entries_survive_empty_ones_and_equal_ones() -> None:
    assert matched(["", "b", "  ", "b ", "a"], ["a b"]) == [(0, 1), (0, 3), (0, 4)]
    assert matched([], ["a"]) == []
    assert matched(["a"], []) == []


def test_many_texts_cross_the_chunks() -> None:
    texts = [f"word{n % 7} here" for n in range(20_000)]
    assert matched(["word3", "here"], texts) == [(n, e) for n in range(20_000) for e in ((0, 1) if n % 7 == 3 else (1,))]


def test_half_a_surrogate_pair_is_a_sign() -> None:
    assert matched(["a"], ["a\ud800 b"]) == [(0, 0)]


def test_the_worker_gives_a_list_a_text() -> None:
    worker = MatchEntries(("a", "b"))
    assert worker(pa.array(["b a", "", "b"])).to_pylist() == [[0, 1], [], [1]]


@pytest.mark.parametrize("rule", RULES)
def test_every_pattern_is_found_in_its_own_text(rule: Rule) -> None:
    entries = ["red", "red car", "猫"]
    content, end_N = prepared(entries, rule)
    assert len(end_N) == 3
    assert all(p in content for p in pattern(entries, rule))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rule is 'longest' \(expected tokens"):
        EntryMatcher(["a"], rule="longest")  # type: ignore[arg-type]
