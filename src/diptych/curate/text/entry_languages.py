"""MetaCLIP 2's multilingual balancing (Chuang et al., 2025, 2507.22062): each language has its own entry list and threshold.

A text is searched only for the entries of its language, and counts are kept per language. The threshold of a reference language
(English) is given; its tail share, the fraction of matches on rarer entries, is then used for every other language:

    p = share_below(counts of the reference, t),     t of a language = threshold_for(its counts, p)

A text whose language is unknown, or has no list if there are lists by language, gets the language "other", which may have its own
list. Letters: L languages, M entries, T texts, K matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.errors import DataError
from diptych.curate.text.balance import share_below, threshold_for
from diptych.curate.text.entries import Entries

OTHER = "other"
SUFFIXES = (".parquet", ".txt", ".json")

Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class EntryLanguages:
    """all     every entry of any list
    lists   numbers into `all` of the entries of each language, sorted; empty when one list serves every language
    """

    all: Entries
    lists: dict[str, Ints]

    @classmethod
    def load(cls, folder: Path) -> EntryLanguages:
        """Reads entry lists from a folder with one list per language: en.txt, fr.parquet, other.txt."""
        files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES}
        if not files:
            raise DataError(
                "contains no list", file=folder, expected="one list of entries per language: en.txt, fr.parquet, other.txt"
            )
        read = {language: Entries.load(path) for language, path in files.items()}
        named: dict[str, set[str]] = {}
        for entries in read.values():
            for name, source in zip(entries.names, entries.sources, strict=True):
                named.setdefault(name, set()).update(source.split("+"))
        names = tuple(sorted(named))
        together = Entries(names, tuple("+".join(sorted(named[name])) for name in names))
        row_of = {name: number for number, name in enumerate(names)}
        lists = {language: np.array([row_of[name] for name in entries.names], np.int64) for language, entries in read.items()}
        return cls(together, lists)

    def of_texts(self, language_T: Sequence[str] | pa.Array) -> tuple[list[str], Ints]:
        """Languages that occur, sorted, and the language index of each text."""
        coded = pa.array(language_T, pa.string()).dictionary_encode()
        languages = [
            language if language and (not self.lists or language in self.lists) else OTHER
            for language in coded.dictionary.to_pylist()
        ]
        names = sorted(set(languages))
        index_C = np.array([names.index(language) for language in languages], np.int64)
        return names, index_C[coded.indices.to_numpy()]

    def own(self, names: Sequence[str], language_T: Ints, entry_K: Ints, offset_T1: Ints) -> tuple[Ints, Ints]:
        """Matches (entry_K, offset_T1) restricted to entries in the list of each text's language."""
        if not self.lists:
            return entry_K, offset_T1
        text_K = np.repeat(np.arange(len(language_T)), np.diff(offset_T1))
        kept_K = np.zeros(len(entry_K), bool)
        for index, name in enumerate(names):
            of_language_K = language_T[text_K] == index
            kept_K |= of_language_K & np.isin(entry_K, self.lists.get(name, np.zeros(0, np.int64)))
        counts_T = np.bincount(text_K[kept_K], minlength=len(language_T))
        return entry_K[kept_K], np.concatenate([[0], np.cumsum(counts_T)]).astype(np.int64)


@dataclass(frozen=True)
class EntryMatches:
    """Entries of texts: text i, of language languages[language_T[i]], has the entries entry_K[offset_T1[i]:offset_T1[i+1]].

    by_language  an entry counts for itself in each language; else once for all
    """

    entries: Entries
    languages: list[str]
    language_T: Ints
    entry_K: Ints
    offset_T1: Ints
    by_language: bool = False

    def rows(self) -> Ints:
        """Row of `counts` for each text."""
        return self.language_T if self.by_language else np.zeros_like(self.language_T)

    def flat_index(self) -> Ints:
        """Flat index of each match into `counts`."""
        return self.entry_K + len(self.entries) * np.repeat(self.rows(), np.diff(self.offset_T1))

    def counts(self) -> Counts:
        """Number of texts of each language that mention each entry, [L, M]; [1, M] where languages do not count."""
        rows = len(self.languages) if self.by_language else 1
        return (
            np.bincount(self.flat_index(), minlength=rows * len(self.entries)).astype(np.uint64).reshape(rows, len(self.entries))
        )

    def of_text(self, text: int) -> list[int]:
        entries: list[int] = self.entry_K[self.offset_T1[text] : self.offset_T1[text + 1]].tolist()
        return entries

    def lists(self) -> pa.ListArray:
        """Lists of entries by text, [T]."""
        return pa.ListArray.from_arrays(pa.array(self.offset_T1, pa.int32()), pa.array(self.entry_K, pa.int32()))


def thresholds_by_language(
    count_LM: Counts, names: Sequence[str], reference: str, *, t: int = 0, tail_share: float = 0.06
) -> list[int]:
    """Threshold t of each language. Raises DataError when no text of the reference language mentions an entry.

    t           t of the reference language; 0 derives it from `tail_share`
    """
    if reference not in names or not count_LM[names.index(reference)].any():
        raise DataError(
            f"no text in language '{reference}' mentions an entry, and its tail share decides the thresholds of the others",
            field="reference",
            expected=f"one of {', '.join(names)}",
        )
    count_M = count_LM[names.index(reference)]
    own = t or threshold_for(count_M, tail_share)
    share = share_below(count_M, own)
    return [own if name == reference else threshold_for(count_M, share) for name, count_M in zip(names, count_LM, strict=True)]
