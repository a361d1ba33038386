"""Sections of a radiology report by their headings, and its sentences.

A heading is one of `HEADINGS`, alone in its line or before a colon, in any case: "FINDINGS:", "Findings and Impression:", "IMPRESSION".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from diptych.data.text.captions.sentences import sentences

HEADINGS: dict[str, tuple[str, ...]] = {
    "findings": ("findings", "finding", "chest, pa and lateral", "pa and lateral views of the chest"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "summary"),
    "indication": ("indication", "indications", "history", "clinical history", "clinical information", "reason for exam"),
    "comparison": ("comparison", "comparisons"),
    "technique": ("technique", "procedure"),
    "examination": ("examination", "exam", "study"),
    "recommendation": ("recommendation", "recommendations", "notification"),
}
"""Name of a section -> headings that open it."""
BOTH = ("findings and impression", "findings/impression", "impression and findings")
"""Headings of a section that is findings and impression in one; it is kept as findings."""
_NAMES = {heading: name for name, headings in HEADINGS.items() for heading in headings} | dict.fromkeys(BOTH, "findings")
_ANY = "|".join(re.escape(heading).replace(r"\ ", r"\s+") for heading in sorted(_NAMES, key=len, reverse=True))
_HEADING = re.compile(rf"(?:^|(?<=[.\n]))[ \t]*(?:({_ANY})[ \t]*:|({_ANY})[ \t]*(?=\n|$))", re.IGNORECASE | re.MULTILINE)
_BLANK = re.compile(r"^[\s_.:-]*$")


def sections(report: str) -> dict[str, str]:
    """Text of each section by its name in `HEADINGS`, and under "" what precedes the first heading. Blank sections are left out;
    sections of one name are joined. A mark of removed text (`___`) is kept.

    >>> sections("FINAL REPORT FINDINGS: Clear lungs.\\nIMPRESSION:\\nNo acute process.")["impression"]
    'No acute process.'
    >>> sections("FINDINGS: ___\\nIMPRESSION: Normal.")
    {'impression': 'Normal.'}
    """
    report = re.sub(r"(?<=\s)(FINDINGS|IMPRESSION|INDICATION|COMPARISON|TECHNIQUE|EXAMINATION):", r"\n\1:", report)
    parts: dict[str, list[str]] = {}
    name, start = "", 0
    for match in [*_HEADING.finditer(report), None]:
        text = report[start : match.start() if match else len(report)].strip()
        if not _BLANK.match(text):
            parts.setdefault(name, []).append(" ".join(text.split()))
        if match:
            name, start = _NAMES[" ".join((match[1] or match[2]).lower().split())], match.end()
    return {name: " ".join(texts) for name, texts in parts.items()}


def report_sentences(report: str, names: Sequence[str] = ("findings", "impression")) -> tuple[str, ...]:
    """Sentences of these sections; of the whole text if it has no headings."""
    parts = sections(report)
    texts = [parts[""]] if set(parts) == {""} else [parts[name] for name in names if name in parts]
    return tuple(sentence for text in texts for sentence in sentences(text))


def shuffled_sentences(text: str, rng: np.random.Generator) -> str:
    """The same sentences in a random order (BioViL, 2204.09817); one permutation of the generator, regardless of the text."""
    pieces = sentences(text)
    return " ".join(pieces[index] for index in rng.permutation(len(pieces)))
