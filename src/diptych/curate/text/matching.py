"""Substring matching of entries in texts (Aho-Corasick): all matches, including overlapping ones, in linear time.

An Aho-Corasick automaton over the entries is built once and reads every text once. A longest-match automaton, or a loop over
entries that stops at the first match, gives different results: "red car" contains "red", "car" and "red car".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.errors import ConfigError, MissingExtra
from diptych.curate.text.word_boundaries import RULES, Rule, pattern, prepared

Ints = npt.NDArray[np.int64]
CHUNK = 8_192
"""Texts searched at once: bounds the memory of the result."""


class EntryMatcher:
    """Aho-Corasick automaton of a list of entries. Empty entries match nothing.

    >>> texts, entries = EntryMatcher(("car", "red", "red car")).match(["a red car", "carpet"])
    >>> texts.tolist(), entries.tolist()
    ([0, 0, 0], [0, 1, 2])
    """

    def __init__(self, entries: Sequence[str], *, rule: Rule = "tokens", ignore_case: bool = False) -> None:
        if rule not in RULES:
            raise ConfigError(f"rule is {rule!r} (expected {' | '.join(RULES)})")
        try:
            import ahocorasick_rs
        except ImportError:
            raise MissingExtra("ahocorasick_rs", "curate", needed_for="matching entries") from None
        self.rule, self.ignore_case = rule, ignore_case
        there = [number for number, entry in enumerate(entries) if entry.strip()]
        folded = [entries[number].casefold() if ignore_case else entries[number] for number in there]
        self._numbers: Ints = np.array(there, np.int64)
        contiguous = ahocorasick_rs.Implementation.ContiguousNFA
        self._automaton: Any = (
            ahocorasick_rs.BytesAhoCorasick(pattern(folded, rule), implementation=contiguous) if there else None
        )

    def match(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """(text index, entry index) of every match, each pair once, in order. [M], [M]"""
        chunks = [self._chunk(texts[start : start + CHUNK], start) for start in range(0, len(texts), CHUNK)]
        if not chunks:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        text_M, entry_M = (np.concatenate(column) for column in zip(*chunks, strict=True))
        return text_M, entry_M

    def _chunk(self, texts: Sequence[str], start: int) -> tuple[Ints, Ints]:
        if self._automaton is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        content, end_N = prepared([text.casefold() for text in texts] if self.ignore_case else texts, self.rule)
        matches = self._automaton.find_matches_as_indexes(content, overlapping=True)
        flat = np.fromiter(chain.from_iterable(matches), np.int64, 3 * len(matches)).reshape(-1, 3)
        text_M = np.searchsorted(end_N, flat[:, 1])
        pairs = np.unique(text_M * len(self._numbers) + flat[:, 0])  # the entries are in order of their numbers
        text_M, entry_M = np.divmod(pairs, len(self._numbers))
        return text_M + start, self._numbers[entry_M]


@dataclass(frozen=True)
class MatchEntries:
    """Worker of `engine.mapped` that returns the indices of the entries in each text."""

    kind: ClassVar[pa.DataType] = pa.list_(pa.int32())

    entries: tuple[str, ...]
    rule: Rule = "tokens"
    ignore_case: bool = False

    def __call__(self, *columns: pa.Array) -> pa.Array:
        texts = columns[0].to_pylist()
        text_M, entry_M = _matcher(self).match(texts)
        offset_N = np.searchsorted(text_M, np.arange(len(texts) + 1))
        return pa.ListArray.from_arrays(pa.array(offset_N, pa.int32()), pa.array(entry_M, pa.int32()))


@lru_cache(maxsize=1)
def _matcher(of: MatchEntries) -> EntryMatcher:
    return EntryMatcher(of.entries, rule=of.rule, ignore_case=of.ignore_case)
