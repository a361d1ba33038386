"""PARENT: overlap of a text with its references and with the table that it describes (Dhingra et al., 2019, 1906.01081).

An n-gram that no reference contains still counts as precise as far as its words are values of the table; n-grams of a reference count for
recall as far as their words are in the table; and recall is also that of the table's entries, by the longest common subsequence.

    P   geometric mean over n = 1..4 of the entailed precision
    R   R_reference^(1 - lambda) R_table^lambda
    F   2 P R / (P + R + 1e-8), the best over the references

ToTTo's evaluation, which RL4LMs runs, takes precision by the whole table and recall by its highlighted cells; lambda is 1 less the
share of the highlighted entries that the reference mentions.

What implementations get wrong: only orders above 1 are smoothed, so that a text without any entailed word has P = 0; precision and recall
of the original are those of the reference with the best F, where others report the best of each.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from diptych.core.errors import ConfigError, DataError, MissingExtra
from diptych.tasks._scoring.captions.metrics import longest_common

Table = Sequence[Sequence[str]]
"""The values of a table's entries, each a list of lower-case words."""
SMOOTHING, ORDERS = 1e-5, 4


@dataclass(frozen=True, slots=True)
class ParentScore:
    """Precision, recall and F of an answer, 0 to 1."""

    precision: float
    recall: float
    f: float


def parent(
    answer: Sequence[str],
    references: Sequence[Sequence[str]],
    table: Table,
    highlighted: Table | None = None,
    *,
    table_weight: float | None = None,
    smoothing: float = SMOOTHING,
    orders: int = ORDERS,
) -> ParentScore:
    """PARENT of an answer against the reference that gives the best F. All words are lower case.

    highlighted   entries that are to be mentioned; None: the whole table
    table_weight  lambda, from 0 to 1; None takes it from the reference
    smoothing     in place of a precision or recall of 0 above single words, and of a recall of 0

    Raises ConfigError for no reference, no entry, or an entry without a word.
    """
    wanted = table if highlighted is None else highlighted
    if not references or not table or not wanted or not all(map(len, (*table, *wanted))):
        raise ConfigError(
            f"PARENT of {len(references)} references, {len(table)} entries of which {len(wanted)} are highlighted "
            "(expected one or more of each, each entry with a word)"
        )
    if table_weight is not None and not 0 <= table_weight <= 1:
        raise ConfigError(f"table_weight is {table_weight:g} (expected 0 to 1, or None)")
    values = frozenset(word for entry in table for word in entry)
    of_table = _mentioned(wanted, answer) or smoothing
    scores = []
    for reference in references:
        grams = [(_grams(answer, n), _grams(reference, n)) for n in range(1, orders + 1)]
        precision = _geometric([_precision(ours, theirs, values) for ours, theirs in grams], smoothing)
        recall = _geometric([_recall(ours, theirs, values) for ours, theirs in grams], smoothing) or smoothing
        weight = 1 - _mentioned(wanted, reference) if table_weight is None else table_weight
        both = math.exp((1 - weight) * math.log(recall) + weight * math.log(of_table)) if recall and of_table else 0.0
        scores.append(ParentScore(precision, both, 2 * precision * both / (precision + both + 1e-8)))
    return max(scores, key=lambda score: score.f)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def _entailed(gram: tuple[str, ...], values: frozenset[str]) -> float:
    return sum(word in values for word in gram) / len(gram)


def _precision(ours: Counter[tuple[str, ...]], theirs: Counter[tuple[str, ...]], values: frozenset[str]) -> float:
    total = 0.0
    for gram, count in ours.items():
        shared = min(1.0, theirs[gram] / count)
        total += count * (shared + (1 - shared) * _entailed(gram, values))
    return total / ours.total() if ours else 0.0


def _recall(ours: Counter[tuple[str, ...]], theirs: Counter[tuple[str, ...]], values: frozenset[str]) -> float:
    weights = {gram: count * _entailed(gram, values) for gram, count in theirs.items()}
    possible = sum(weights.values())
    return sum(weight * min(1.0, ours[gram] / theirs[gram]) for gram, weight in weights.items()) / possible if possible else 1.0


def _geometric(shares: Sequence[float], smoothing: float) -> float:
    smoothed = [share or (smoothing if order else 0.0) for order, share in enumerate(shares)]
    return math.exp(math.fsum(math.log(share) / len(smoothed) for share in smoothed)) if all(smoothed) else 0.0


def _mentioned(entries: Table, words: Sequence[str]) -> float:
    return sum(longest_common(entry, words) / len(entry) for entry in entries) / len(entries)


# ---------------------------------------------------------------- tables in prompts

CELLS = re.compile(r"<cell>(.*?)</cell>", re.DOTALL)
HEADERS = re.compile(r"<(?:row|col)_header>(.*?)</(?:row|col)_header>", re.DOTALL)
TITLES = re.compile(r"<(page|section)_title>(.*?)</\1_title>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PromptTable:
    """Texts of the entries of a table that a prompt holds, and of those that a sentence about it should mention."""

    entries: tuple[str, ...]
    highlighted: tuple[str, ...]


def prompt_table(prompt: str) -> PromptTable:
    """The table of a prompt, in one of two forms.

    ToTTo's, as linearised: titles, and highlighted cells with their headers. All are entries, cells and titles are highlighted. The
    released metric also knows the other cells of the table and the text of its section, which the prompt of a model does not hold
    PARENT's    tab-separated "attribute|||value"; every value is highlighted

    Raises DataError for a prompt without a table.

    >>> prompt_table("name|||Ann Lee\\tborn|||1965").entries
    ('Ann Lee', '1965')
    """
    if "|||" in prompt:
        cells = [entry.rpartition("|||")[2] for entry in prompt.split("\t") if "|||" in entry]
        titles, headers = list[str](), list[str]()
    else:
        last = prompt[max(0, prompt.rfind("<table>")) :]
        cells, headers = [HEADERS.sub("", cell) for cell in CELLS.findall(last)], HEADERS.findall(last)
        titles = list(dict(TITLES.findall(prompt)).values())
    highlighted, others = (tuple(text.strip() for text in some if text.strip()) for some in ([*cells, *titles], headers))
    if not highlighted:
        expected = "ToTTo's <table> with <cell> values, or attribute|||value separated by tabs"
        raise DataError(f"a prompt holds no table: {prompt[:60]!r}", field="prompt", expected=expected)
    return PromptTable((*highlighted, *others), highlighted)


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    try:
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    except ImportError:
        raise MissingExtra("sacrebleu", "rl", needed_for="PARENT") from None
    return Tokenizer13a()


def table_words(text: str) -> list[str]:
    """Lower-case words by the tokenizer of ToTTo's evaluation (mteval's 13a)."""
    words: list[str] = _tokenizer()(text.strip().lower()).split()
    return words


def parent_of_prompt(prompt: str, answer: str, references: Sequence[str]) -> float:
    """F of PARENT for an answer to a prompt that holds a table."""
    table = prompt_table(prompt)
    entries, highlighted = (
        [words for text in some if (words := table_words(text))] for some in (table.entries, table.highlighted)
    )
    return parent(table_words(answer), [table_words(one) for one in references], entries, highlighted).f
