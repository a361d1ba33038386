"""Findings with their places: which finding a report states where, and the matrix of a data set's findings and places.

A pair is (finding, place, status). Three sources, the first that a sample has:

    extras["pairs"]      a list of [finding, place, "present" | "absent" | "uncertain"], or its JSON: parses of RadGraph, for example
    extras["sentences"]  PadChest's column LabelsLocalizationsBySentence: labels and places ("loc ...") of each sentence
    the texts            reports, by rules: names of findings, negation as in `findings`. A place belongs to the finding right after it
                         ("left basal opacity"), else to the one before it ("opacity at the left base"), else to the next

Letters: A places, K findings.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.text.reports.findings import Status, status_of
from diptych.data.text.reports.sections import report_sentences

UNSPECIFIED = "unspecified"
"""Place of a finding whose sentence names none."""
NO_LABELS = frozenset({"normal", "exclude", "unchanged", ""})
"""PadChest's labels that are no findings."""
SIDE = re.compile(r"\s+(left side|right side|both sides?|bilateral)$")
SIDES = {"left side": "left", "right side": "right"} | dict.fromkeys(("both sides", "both side", "bilateral"), "bilateral")
"""Side at the end of a label of PadChest's sentences -> the place of that name; the column Labels has the label without it."""
ADJACENT = re.compile(r"\s+(?:(?!(?:and|or|with)\b)\w+\s+)?")
"""At most one word, between a place and the finding that it belongs to."""
NOT_A_NUMBER = re.compile(r"(?<=[\[ ])nan(?=[,\]])")
Matrix = npt.NDArray[np.int8]


class FindingPlace(NamedTuple):
    """A finding at a place, and whether a report says that it is there."""

    finding: str
    place: str
    status: Status


def finding_places(sample: Sample, findings: Sequence[str] = (), sites: Sequence[str] = ()) -> list[FindingPlace]:
    """Pairs of a sample from its extras; of its texts by the names given, if it has neither column.

    Raises DataError for a column that cannot be read, with the sample and the field.
    """
    if (pairs := sample.extras.get("pairs")) is not None:
        return _listed_pairs(pairs, sample.uid)
    if sentences := sample.extras.get("sentences"):
        return padchest_pairs(str(sentences), sample.uid)
    return [pair for text in sample.texts for pair in report_pairs(text.string, findings, sites)] if findings else []


def report_pairs(report: str, findings: Sequence[str], sites: Sequence[str]) -> list[FindingPlace]:
    """Pairs of a report by rules. An underscore in a name stands for a blank; of overlapping names the longest counts.

    >>> report_pairs("No nodule. Opacity in the left lower zone.", ["nodule", "opacity"], ["left lower zone"])
    [FindingPlace(finding='nodule', place='unspecified', status='absent'), \
FindingPlace(finding='opacity', place='left lower zone', status='present')]
    """
    pairs = []
    for sentence in report_sentences(report):
        mentions = [
            (*match.span(), _key(match.group()), status_of(sentence, *match.span()))
            for match in _pattern(tuple(findings)).finditer(sentence)
        ]
        named: dict[int, list[str]] = {}
        for match in _pattern(tuple(sites)).finditer(sentence) if sites and mentions else ():
            behind = next((at for at, mention in enumerate(mentions) if mention[0] >= match.end()), None)
            before = next((at for at, mention in reversed([*enumerate(mentions)]) if mention[1] <= match.start()), None)
            touches = behind is not None and ADJACENT.fullmatch(sentence, match.end(), mentions[behind][0])
            owner = behind if before is None or touches else before
            if owner is not None:
                named.setdefault(owner, []).append(_names(tuple(sites))[_key(match.group())])
        for number, (_, _, name, status) in enumerate(mentions):
            finding = _names(tuple(findings))[name]
            pairs += [FindingPlace(finding, site, status) for site in named.get(number, [UNSPECIFIED])]
    return pairs


def padchest_pairs(sentences: str, uid: str = "") -> list[FindingPlace]:
    """Pairs of PadChest's column: each label of a sentence with each of its places, all present. A sentence without labels is
    `nan` there; a side in a label ("pleural effusion left side") is a place.

    Reports that the authors' model labelled have one list of all sentences. In it, a label with a blank in front belongs to the
    sentence of the label before it; one without begins a sentence.

    >>> padchest_pairs("[['normal'], ['pleural effusion', 'loc pleural', 'loc right']]")[1]
    FindingPlace(finding='pleural effusion', place='right', status='present')
    >>> [pair[:2] for pair in padchest_pairs("['consolidation', ' pneumonia', 'loc basal', 'scoliosis']")]
    [('consolidation', 'basal'), ('pneumonia', 'basal'), ('scoliosis', 'unspecified')]
    """
    try:
        rows = ast.literal_eval(NOT_A_NUMBER.sub("[]", sentences))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        rows = None
    if isinstance(rows, list) and all(isinstance(row, str) for row in rows):
        rows = _split_sentences(rows)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise DataError(
            f"sample {uid!r} has {sentences[:40]!r}",
            field="sentences",
            expected="a list of lists such as [['nodule', 'loc right']]",
        )
    pairs = []
    for row in rows:
        labels = [str(label).strip() for label in row]
        sites = [label.removeprefix("loc ").strip() for label in labels if label.startswith("loc ")]
        for label in labels:
            if label.startswith("loc ") or label in NO_LABELS:
                continue
            own = [SIDES[match[1]]] if (match := SIDE.search(label)) else []
            finding = SIDE.sub("", label)
            pairs += [FindingPlace(finding, site, "present") for site in dict.fromkeys(sites + own) or [UNSPECIFIED]]
    return pairs


def _split_sentences(labels: Sequence[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for label in labels:
        if not rows or not label.startswith((" ", "loc ")):
            rows.append([])
        rows[-1].append(label)
    return rows


def finding_matrix(pairs: Iterable[FindingPlace], findings: Sequence[str], sites: Sequence[str]) -> Matrix:
    """int8 [A, K]: 1 present, 0 absent, -1 not mentioned or uncertain. Present counts before absent; other names are left out."""
    matrix_AK = np.full((len(sites), len(findings)), -1, np.int8)
    row, column = {name: at for at, name in enumerate(sites)}, {name: at for at, name in enumerate(findings)}
    for finding, site, status in pairs:
        if status != "uncertain" and finding in column and site in row:
            at = row[site], column[finding]
            matrix_AK[at] = max(matrix_AK[at], int(status == "present"))
    return matrix_AK


def _listed_pairs(value: Any, uid: str) -> list[FindingPlace]:
    try:
        rows = json.loads(value) if isinstance(value, str) else value
        pairs = [FindingPlace(str(finding), str(site), status) for finding, site, status in rows]
    except (ValueError, TypeError):
        pairs = [FindingPlace("", "", "unreadable")]  # type: ignore[arg-type]
    if any(pair.status not in get_args(Status) for pair in pairs):
        raise DataError(
            f"sample {uid!r} has {str(value)[:60]!r}", field="pairs", expected='lists such as ["nodule", "left lung", "present"]'
        )
    return pairs


def _key(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


@cache
def _names(names: tuple[str, ...]) -> dict[str, str]:
    return {_key(name): name for name in names}


@cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(_names(names), key=len, reverse=True)
    return re.compile(
        r"\b(" + "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first) + r")\b", re.IGNORECASE
    )
