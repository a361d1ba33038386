"""Words as sparse vectors: a vocabulary that only grows, and BM25 weights for collections without a lexical model.

BM25 (Robertson and Zaragoza, 2009): the score of a document for a query is the sum over the query's words of

    idf(w) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length)),   idf(w) = log(1 + (N - n + 0.5) / (n + 0.5))

with tf the count of w in the document, N documents of which n have w. The second factor is stored with a document; the engine
knows N and n and puts the first on the query, so that both stay right as the collection grows.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from diptych.core.disk.paths import read_file
from diptych.core.errors import ConfigError, DataError, RunError
from diptych.index.engine.store import SparseVector
from diptych.index.spelling import without_accents

FILE = "words.txt"
SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Han: no spaces between words, so that a sign is a word
WORD = re.compile(rf"[{SPACELESS}]|[^\W_{SPACELESS}]+")


def folded(text: str) -> str:
    """Text in lower case, compatible forms (ﬁ, full width) as the usual ones. Accents stay."""
    return unicodedata.normalize("NFKC", text).casefold()


def words_of(text: str) -> list[str]:
    """Words in order, as `folded` spells them, without punctuation.

    >>> words_of("Two red-brown foxes, 東京!")
    ['two', 'red', 'brown', 'foxes', '東', '京']
    """
    return WORD.findall(folded(text))


@dataclass(frozen=True)
class BM25Encoder:
    """Sparse text encoder without a model: words weighted as in BM25.

    k1  how soon repeating a word stops to count
    b   how much long texts are held back: 0 not at all, 1 in full proportion
    """

    k1: float = 1.2
    b: float = 0.75
    name: ClassVar[str] = "words"

    def __post_init__(self) -> None:
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise ConfigError(f"k1 is {self.k1} and b is {self.b} (expected k1 >= 0 and b in 0..1)")

    @property
    def fingerprint(self) -> str:
        return f"bm25-1-{self.k1}-{self.b}"

    def documents(self, texts: Sequence[str], mean_length: float) -> list[dict[str, float]]:
        """Document part of BM25, by word."""
        documents = []
        for text in texts:
            counts = Counter(words_of(text))
            held_back = self.k1 * (1 - self.b + self.b * counts.total() / max(mean_length, 1.0))
            documents.append({word: tf * (self.k1 + 1) / (tf + held_back) for word, tf in counts.items()})
        return documents

    def query(self, text: str) -> dict[str, float]:
        """Count of each word of a query."""
        return {word: float(count) for word, count in Counter(words_of(text)).items()}


class TermVocabulary:
    """Terms with their numbers, in a file of an index: one per line, numbered by line. Lines are only ever added."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._by_plain: dict[str, list[str]] = {}
        self._read = 0  # terms that are in `_by_plain`
        self._reading = threading.Lock()

    @cached_property
    def _number_of(self) -> dict[str, int]:
        if not self._file.exists():
            return {}
        try:
            data = read_file(self._file, self._file.parent)
        except OSError as error:
            raise RunError(f"{self._file} cannot be read: {error.strerror or error}") from error
        whole = data[: data.rfind(b"\n") + 1]  # a kill may have cut the last line, which nothing refers to yet
        if len(whole) < len(data):
            os.truncate(self._file, len(whole))
        numbers: dict[str, int] = {}
        for number, line in enumerate(whole.split(b"\n")[:-1]):
            try:
                term = json.loads(line)
            except (ValueError, RecursionError):
                term = None
            if not isinstance(term, str) or term in numbers:
                raise RunError(f"{self._file}, line {number + 1}: is not a new term ({line[:40]!r}): build the index again")
            numbers[term] = number
        return numbers

    def __len__(self) -> int:
        return len(self._number_of)

    def __contains__(self, term: object) -> bool:
        return term in self._number_of

    def terms(self) -> list[str]:
        """Terms in the order of their numbers."""
        return list(self._number_of)

    def accent_variants(self, term: str) -> list[str]:
        """Terms that differ from this one only in accents, such as "forêt" and "foret". The first call reads every term."""
        with self._reading:
            if self._read < len(self):
                terms = self.terms()  # a copy: another thread may learn terms in the meantime
                for learned in terms[self._read :]:
                    self._by_plain.setdefault(without_accents(learned), []).append(learned)
                self._read = len(terms)
            return list(self._by_plain.get(without_accents(term), ()))

    def learn(self, terms: Iterable[str]) -> None:
        """Give numbers to the terms that have none. They are on disk when this returns."""
        new = [term for term in dict.fromkeys(terms) if term not in self._number_of]
        if not new:
            return
        before = self._file.stat().st_size if self._file.is_file() else 0
        try:
            with self._file.open("ab") as file:
                file.write("".join(json.dumps(term) + "\n" for term in new).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(self._file, before)  # so that no half of a term precedes the next ones
            raise
        for term in new:
            self._number_of[term] = len(self._number_of)

    def encode(self, weights: Mapping[str, float]) -> SparseVector:
        """Sparse vector of weighted terms; terms without a number, which no item has, are left out."""
        pairs = sorted((self._number_of[term], weight) for term, weight in weights.items() if term in self._number_of)
        return SparseVector(np.array([n for n, _ in pairs], np.int64), np.array([w for _, w in pairs], np.float32))


def unit_weights(weights: Mapping[str, float], name: str) -> dict[str, float]:
    """Weights scaled to length 1; refuses weights that are not finite and positive. `name` is for the message."""
    for term, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):  # numpy's is ten times slower on one number
            raise DataError(f"the weight of {term!r} in {name} is {weight}", expected="finite weights above 0")
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {term: weight / length for term, weight in weights.items()}


def heaviest(weights: Mapping[str, float], count: int) -> dict[str, float]:
    """Only the `count` heaviest terms (0 keeps all), equal weights in the order of terms."""
    if not count:
        return dict(weights)
    return dict(sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:count])
