"""Words of reports as R2Gen's code cleans them (2010.16056), and a vocabulary of the frequent ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from diptych.core.errors import ConfigError, DataError

Cleaning = Literal["iu_xray", "mimic_cxr"]
CLEANINGS: tuple[Cleaning, ...] = ("iu_xray", "mimic_cxr")
UNKNOWN = "<unk>"
"""The word that stands for all rare ones."""

_MARKS = re.compile(r"[.,?;*!%^&_+():<=>@\[\]{}]")
_QUOTES = re.compile(r"[\"'/\\]")


def report_words(report: str, cleaning: Cleaning = "iu_xray") -> list[str]:
    """Words of a report, with a full stop as the word behind each sentence.

    cleaning  "iu_xray", or "mimic_cxr", which first makes line breaks and runs of spaces one space: otherwise a sentence that ends at a
              line break runs on

    >>> " ".join(report_words("1. No acute disease. 2. T-spine: changes (mild)."))
    'no acute disease . t-spine changes mild .'
    """
    if cleaning == "mimic_cxr":
        report = re.sub(" {2,}", " ", report.replace("\n", " "))
    text = re.sub(r"\.{2,}", ".", report).replace("1. ", "")
    for before in (". ", " "):
        for number in range(2, 6):
            text = text.replace(f"{before}{number}. ", ". ")
    pieces = [_MARKS.sub("", _QUOTES.sub("", piece).strip()) for piece in text.strip().lower().split(". ")]
    return f"{' . '.join(pieces)} .".split()


@dataclass(frozen=True, slots=True)
class ReportVocabulary:
    """Words with their ids from 1 on; 0 begins, ends and pads a report.

    words     in alphabetical order, `UNKNOWN` among them
    cleaning  of reports
    """

    words: tuple[str, ...]
    cleaning: Cleaning = "iu_xray"

    @classmethod
    def of(cls, reports: Iterable[str], *, threshold: int = 3, cleaning: Cleaning = "iu_xray") -> Self:
        """Vocabulary of the words that reports have `threshold` times or more (R2Gen: 3 on IU X-ray, 10 on MIMIC-CXR).

        Raises ConfigError for a threshold below 1 or an unknown cleaning, DataError where no word is left.
        """
        if threshold < 1 or cleaning not in CLEANINGS:
            raise ConfigError(f"threshold {threshold}, cleaning {cleaning!r} (expected 1 or more, {' | '.join(CLEANINGS)})")
        counts = Counter(word for report in reports for word in report_words(report, cleaning))
        frequent = {word for word, count in counts.items() if count >= threshold} - {UNKNOWN}
        if not frequent:
            raise DataError(
                f"none of {len(counts)} words occurs {threshold} times",
                field="texts",
                expected="more reports, or a lower threshold",
            )
        return cls(tuple(sorted({*frequent, UNKNOWN})), cleaning)

    def __len__(self) -> int:
        """Ids, that of 0 among them."""
        return len(self.words) + 1

    def encode(self, report: str, length: int = 0) -> list[int]:
        """Ids of a report between zeros; of a report that is longer than `length` ids with the first zero, the start."""
        ids = {word: number for number, word in enumerate(self.words, 1)}
        encoded = [0, *(ids.get(word, ids[UNKNOWN]) for word in report_words(report, self.cleaning)), 0]
        return encoded[: length or None]

    def decode(self, ids: Sequence[int]) -> str:
        """Words up to the first 0, between spaces."""
        end = next((at for at, number in enumerate(ids) if number == 0), len(ids))
        return " ".join(self.words[number - 1] for number in ids[:end])
