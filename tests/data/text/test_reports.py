"""Reports by rules: sections, negation, uncertainty; empty sections and unknown findings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diptych.core.errors import UnknownName
from diptych.data.text.captions.sentences import sentences
from diptych.data.text.reports.findings import FINDINGS, finding_values, findings
from diptych.data.text.reports.sections import report_sentences, sections, shuffled_sentences

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  History: ___F with shortness of breath  // ?pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 The cardiac silhouette is mildly enlarged. There is no focal consolidation,
 pleural effusion or pneumothorax. A PICC line ends in the low SVC.

 IMPRESSION:

 1. Mild cardiomegaly without edema.
 2. Possible left basilar atelectasis, although early pneumonia cannot be excluded.
"""


def test_sections() -> None:
    parts = sections(REPORT)
    assert parts[""] == "FINAL REPORT"
    assert list(parts) == ["", "examination", "indication", "technique", "findings", "impression"]  # the comparison is blank
    assert parts["findings"].startswith("The cardiac silhouette")
    assert parts["indication"] == "History: ___F with shortness of breath // ?pneumonia"
    assert sections("Normal chest.") == {"": "Normal chest."}
    assert sections("") == {}
    assert len(report_sentences(REPORT)) >= 5
    assert report_sentences("FINDINGS:\nIMPRESSION: ") == ()


def test_findings() -> None:
    statuses = findings(REPORT)
    assert {name for name, status in statuses.items() if status == "present"} == {"Cardiomegaly", "Support Devices"}
    assert {name for name, status in statuses.items() if status == "uncertain"} == {"Atelectasis", "Pneumonia"}
    absent = {name for name, status in statuses.items() if status == "absent"}
    assert absent == {"Consolidation", "Pleural Effusion", "Pneumothorax", "Edema"}


@pytest.mark.parametrize(
    ("sentence", "name", "status"),
    [
        ("No evidence of pneumothorax.", "Pneumothorax", "absent"),
        ("Pneumothorax is not seen.", "Pneumothorax", "absent"),
        ("Effusion has resolved, but there is new consolidation.", "Pleural Effusion", "absent"),
        ("Effusion has resolved, but there is new consolidation.", "Consolidation", "present"),
        ("Opacity concerning for pneumonia.", "Pneumonia", "uncertain"),
        ("A fracture cannot be ruled out.", "Fracture", "uncertain"),
        ("Stable pulmonary oedema", "Edema", "present"),
        ("Healed rib fractures with pleural thickening.", "Pleural Other", "present"),
        ("The heart is mildly enlarged.", "Cardiomegaly", "present"),
        ("Abnormal", "Edema", None),
    ],
)
def test_cues(sentence: str, name: str, status: str | None) -> None:
    assert findings(sentence).get(name) == status


def test_values_and_nothing() -> None:
    assert findings("The lungs are clear.") == {"No Finding": "present"}
    assert findings("") == {}
    values = dict(zip(FINDINGS, finding_values(REPORT), strict=True))
    assert (values["Cardiomegaly"], values["Edema"], values["Pneumonia"]) == (1, 0, -1)
    assert math.isnan(values["Fracture"])
    with pytest.raises(UnknownName, match="Pneumonias"):
        finding_values(REPORT, ("Pneumonias",))


def test_sentences_are_shuffled_and_none_is_lost() -> None:
    text = "One is first. Two comes next. Three is last. Four is more."
    orders = {shuffled_sentences(text, np.random.default_rng(seed)) for seed in range(20)}
    assert len(orders) > 5
    assert all(sorted(sentences(order)) == sorted(sentences(text)) for order in orders)
    assert shuffled_sentences("", np.random.default_rng(0)) == ""
