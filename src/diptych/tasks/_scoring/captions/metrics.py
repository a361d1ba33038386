"""BLEU, ROUGE-L and CIDEr-D of captions, as in the COCO evaluation code.

Tokenisation: lower case, Penn Treebank, thirteen punctuation marks dropped (`words_of`). The released code uses a Java tokeniser;
on real captions the tokens differ in well under one percent of the cases, and the metrics in the third digit. Its list of dropped
tokens has upper-case brackets ("-LRB-") but is compared with lower-case tokens, so brackets are kept and count as words.

Letters: N items, M references of an item.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError

Brackets = Literal["kept", "dropped"]
DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
BRACKETS = frozenset({"-lrb-", "-rrb-", "-lcb-", "-rcb-", "-lsb-", "-rsb-"})
_WORD = re.compile(
    r"n't\b|'(?:s|m|d|ll|re|ve)\b"  # what contractions end in
    r"|\d+(?:[.,:/]\d+)+"
    r"|(?:[a-z]\.){2,}"
    r"|[^\W_]+(?:[-_/&.][^\W_]+)*?(?=n't\b)"
    r"|[^\W_]+(?:[-_/&][^\W_]+)*"
    r"|\.\.\.|--|``|''|\S"
)
_SPELLED = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-", '"': "''"}
Grams = Counter[tuple[str, ...]]


def words_of(caption: str, *, brackets: Brackets = "kept") -> list[str]:
    """Words of a caption, tokenised as the COCO evaluation does.

    brackets  "kept": brackets are words, as in the COCO evaluation code; "dropped": brackets are removed like other punctuation

    >>> words_of("Two dogs -- one's black (and white), the other isn't!")
    ['two', 'dogs', 'one', "'s", 'black', '-lrb-', 'and', 'white', '-rrb-', 'the', 'other', 'is', "n't"]
    >>> words_of("black (and white)", brackets="dropped")
    ['black', 'and', 'white']
    """
    words = (_SPELLED.get(word, word) for word in _WORD.findall(caption.lower()))
    dropped = DROPPED | BRACKETS if brackets == "dropped" else DROPPED
    return [word for word in words if word not in dropped]


def ngram_counts(words: Sequence[str], longest: int = 4) -> Grams:
    """Counts of the n-grams of 1 to `longest` words."""
    return Counter(tuple(words[at : at + n]) for n in range(1, longest + 1) for at in range(len(words) - n + 1))


# ---------------------------------------------------------------- BLEU


@dataclass(frozen=True, slots=True)
class BleuCounts:
    """BLEU statistics by item (Papineni et al., 2002): matching and possible n-grams of 1 to 4 words, lengths."""

    correct_N4: npt.NDArray[np.float64]
    possible_N4: npt.NDArray[np.float64]
    length_N: npt.NDArray[np.float64]
    reference_N: npt.NDArray[np.float64]

    def score(self, order: int = 4, rows: npt.NDArray[np.int64] | slice = slice(None)) -> float:
        """Corpus BLEU of those items, up to n-grams of `order` words; the closest reference length counts."""
        precision = (self.correct_N4[rows].sum(0) + 1e-15) / (self.possible_N4[rows].sum(0) + 1e-9)
        ratio = (self.length_N[rows].sum() + 1e-15) / (self.reference_N[rows].sum() + 1e-9)
        penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        return float(precision[:order].prod() ** (1 / order) * penalty)


def bleu_counts(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> BleuCounts:
    """BLEU statistics of captions. `captions` and `references` are words."""
    correct, possible, lengths, nearest = [], [], [], []
    for caption, own_references in zip(captions, references, strict=True):
        most: Grams = Counter()
        for reference in own_references:
            most |= ngram_counts(reference)
        own = ngram_counts(caption)
        hits = own & most
        correct.append([sum(count for run, count in hits.items() if len(run) == n) for n in range(1, 5)])
        possible.append([max(0, len(caption) - n + 1) for n in range(1, 5)])
        lengths.append(len(caption))
        nearest.append(min((abs(len(reference) - len(caption)), len(reference)) for reference in own_references)[1])
    return BleuCounts(*(np.asarray(values, np.float64) for values in (correct, possible, lengths, nearest)))


# ---------------------------------------------------------------- ROUGE-L


def rouge_l(caption: Sequence[str], references: Sequence[Sequence[str]], *, beta: float = 1.2) -> float:
    """F-measure of the longest common subsequence (Lin, 2004): best precision and best recall over the references, recall
    weighted `beta` times. An empty caption scores 0.
    """
    common = [longest_common(caption, reference) for reference in references]
    precision = max(common) / len(caption) if caption else 0.0
    recall = max(shared / len(reference) if reference else 0.0 for shared, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for column, other in enumerate(b, 1):
            before, row[column] = row[column], before + 1 if word == other else max(row[column], row[column - 1])
    return row[-1]


# ---------------------------------------------------------------- CIDEr-D


def document_frequencies(references: Sequence[Sequence[Sequence[str]]]) -> Grams:
    """Document frequency of each n-gram: the number of items with it in their references."""
    frequency: Grams = Counter()
    for own in references:
        frequency.update(set().union(*(ngram_counts(reference) for reference in own)))
    return frequency


def cider_d(
    captions: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    frequencies: Mapping[tuple[str, ...], int] | None = None,
    items: int = 0,
) -> npt.NDArray[np.float64]:
    """CIDEr-D of each item (Vedantam et al., 2015): similarity of runs of 1 to 4 words, rare ones heavier. [N], 0 to 10.

    frequencies, items   of a larger corpus; None: those of these references. Scores of a part of a data set are comparable with those of
                         the whole under one table alone; with one item every score is 0
    """
    if (frequencies is None) != (items == 0):
        raise DataError("frequencies of a corpus need its number of items", field="items", expected="both or neither")
    table = document_frequencies(references) if frequencies is None else frequencies
    corpus = math.log(float(items or len(references)))
    scores = []
    for caption, own_references in zip(captions, references, strict=True):
        own = _tf_idf(caption, table, corpus)
        scores.append(
            10 * sum(_similar(own, _tf_idf(reference, table, corpus)) for reference in own_references) / len(own_references)
        )
    return np.asarray(scores, np.float64)


@dataclass(frozen=True, slots=True)
class _TfIdfVectors:
    by_length: tuple[dict[tuple[str, ...], float], ...]
    norms: tuple[float, ...]
    pairs: int  # number of bigrams, which the released code uses as the length


def _tf_idf(words: Sequence[str], table: Mapping[tuple[str, ...], int], corpus: float) -> _TfIdfVectors:
    parts: tuple[dict[tuple[str, ...], float], ...] = ({}, {}, {}, {})
    for run, count in ngram_counts(words).items():
        parts[len(run) - 1][run] = count * (corpus - math.log(max(1.0, table.get(run, 0))))
    norms = tuple(math.sqrt(sum(value**2 for value in part.values())) for part in parts)
    return _TfIdfVectors(parts, norms, max(0, len(words) - 1))


def _similar(own: _TfIdfVectors, other: _TfIdfVectors, sigma: float = 6.0) -> float:
    total = 0.0
    for mine, theirs, a, b in zip(own.by_length, other.by_length, own.norms, other.norms, strict=True):
        shared = sum(min(value, theirs.get(run, 0.0)) * theirs.get(run, 0.0) for run, value in mine.items())
        total += shared / (a * b) if a and b else shared
    return total / 4 * math.exp(-((own.pairs - other.pairs) ** 2) / (2 * sigma**2))
