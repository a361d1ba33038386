"""Findings of a report by rules: a term, and a cue of negation or uncertainty that reaches it within the sentence (after NegEx, 2001).

Rules are no match for a trained labeller; they need no weights, and the same text gives the same labels for ever. The fourteen names are
CheXpert's (1901.07031).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from diptych.core.errors import UnknownName
from diptych.data.text.reports.sections import report_sentences

Status = Literal["present", "uncertain", "absent"]

TERMS: dict[str, str] = {
    "Enlarged Cardiomediastinum": r"(widen(ed|ing)|enlarge(d|ment)|prominen(t|ce)) (of the )?(cardio)?mediastin\w*"
    r"|mediastinal widening",
    "Cardiomegaly": r"cardiomegaly|(cardiac|heart|cardiac silhouette)( \w+){0,3} (enlarge(d|ment)|large)|enlarged (heart|cardiac)",
    "Lung Opacity": r"opacit(y|ies)|opacification|infiltrates?|airspace disease|interstitial markings",
    "Lung Lesion": r"nodul(e|es|ar)|mass(es)?\b|lesions?|tumou?rs?|metastas[ei]s",
    "Edema": r"o?edema|vascular congestion|heart failure|chf",
    "Consolidation": r"consolidat(ion|ions|ive)",
    "Pneumonia": r"pneumonias?|infection|infectious process",
    "Atelectasis": r"atelecta(sis|tic|ses)|(lobar|lung|volume) collapse|volume loss",
    "Pneumothorax": r"pneumothora(x|ces)",
    "Pleural Effusion": r"effusions?|pleural fluid|blunt(ed|ing) (of )?(the )?(\w+ ){0,2}costophrenic",
    "Pleural Other": r"pleural (thickening|scarring|plaques?)|fibrothorax",
    "Fracture": r"fractures?|fractured",
    "Support Devices": r"pacemaker|catheter|(endotracheal|nasogastric|enteric|chest|ng|et) tubes?|picc|port-a-cath|leads?\b"
    r"|sternotomy wires",
}
"""Name of a finding -> pattern of the words that name it."""
NO_FINDING = "No Finding"
FINDINGS: tuple[str, ...] = (NO_FINDING, *TERMS)

NEGATION = (
    r"\b(no|not|without|denie[sd]|negative for|free of|absence of|clear of|resol(ved|ution of)|neither|nor|never|rule[sd]? out)\b"
)
NEGATED_AFTER = (
    r"\b(is|are|was|were|has|have)( been)? (not (seen|identified|present|evident)|absent|excluded|ruled out|resolved|unlikely)\b"
)
UNCERTAINTY = (
    r"\b(may|might|could|possibl[ey]|probabl[ey]|suspected|suspicious for|suggest(s|ing|ive of)?|likely|cannot (be )?exclude\w*|"
    r"can not (be )?exclude\w*|questionable|equivocal|concern(ing)? for|versus|vs|or|worrisome)\b"
)
NO_EXCLUSION = re.compile(
    r"(cannot|can not|not) (be )?(entirely |completely )?(excluded?|ruled? out)|difficult to exclude", re.IGNORECASE
)
ENDS = re.compile(
    r"\b(but|however|although|though|except|aside from|apart from|otherwise|which|with)\b|[;:]|, (and|there)", re.IGNORECASE
)
"""Where the reach of a cue ends."""
_TERMS = {name: re.compile(rf"\b(?:{pattern})", re.IGNORECASE) for name, pattern in TERMS.items()}
_BEFORE = {"negation": re.compile(NEGATION, re.IGNORECASE), "uncertainty": re.compile(UNCERTAINTY, re.IGNORECASE)}
_AFTER = re.compile(NEGATED_AFTER, re.IGNORECASE)
_RANK: dict[Status, int] = {"absent": 0, "uncertain": 1, "present": 2}


def status_of(sentence: str, start: int, end: int) -> Status:
    """Status of the mention at sentence[start:end] by the cues of its clause.

    >>> text = "No effusion, but possible pneumonia."
    >>> status_of(text, 3, 11), status_of(text, 26, 35)
    ('absent', 'uncertain')
    """
    before = max((match.end() for match in ENDS.finditer(sentence, 0, start)), default=0)
    after = next((match.start() for match in ENDS.finditer(sentence, end)), len(sentence))
    clause = sentence[before:after]
    if NO_EXCLUSION.search(clause):
        return "uncertain"
    if _BEFORE["negation"].search(sentence, before, start) or _AFTER.search(sentence, end, after):
        return "absent"
    return "uncertain" if _BEFORE["uncertainty"].search(sentence, before, start) else "present"


def findings(report: str, terms: Mapping[str, re.Pattern[str]] | None = None) -> dict[str, Status]:
    """Status of every finding that a report mentions; of several mentions the highest-scoring counts. "No Finding" is present
    where nothing but devices is present or uncertain. A report without findings and impression, or without text, gives {}.

    terms  finding -> pattern, in place of `TERMS`

    >>> findings("FINDINGS: No pneumothorax. Small left effusion.\\nIMPRESSION: Pneumonia cannot be excluded.")
    {'Pneumothorax': 'absent', 'Pleural Effusion': 'present', 'Pneumonia': 'uncertain'}
    """
    pieces = report_sentences(report)
    statuses: dict[str, Status] = {}
    for sentence in pieces:
        for name, pattern in (_TERMS if terms is None else terms).items():
            for match in pattern.finditer(sentence):
                status = status_of(sentence, *match.span())
                if name not in statuses or _RANK[status] > _RANK[statuses[name]]:
                    statuses[name] = status
    if pieces and terms is None and all(status == "absent" for name, status in statuses.items() if name != "Support Devices"):
        statuses[NO_FINDING] = "present"
    return statuses


def finding_values(report: str, names: tuple[str, ...] = FINDINGS) -> list[float]:
    """1 present, 0 absent, -1 uncertain, NaN not mentioned, as CheXpert's table has them. Raises UnknownName for a name that is
    not a finding."""
    for name in names:
        if name not in FINDINGS:
            raise UnknownName("finding", name, FINDINGS)
    values = {"present": 1.0, "absent": 0.0, "uncertain": -1.0}
    statuses = findings(report)
    return [values[statuses[name]] if name in statuses else float("nan") for name in names]
