"""Report generation: words of the released code, BLEU of sacrebleu, ROUGE-L of rouge-score, F1 of scikit-learn, the blind row, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from sklearn import metrics as sk

import diptych as dp
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.text.reports.findings import FINDINGS, findings
from diptych.data.text.reports.report_words import report_words
from diptych.tasks._scoring.records import read_records, write_records
from diptych.tasks.domains.report_generation import ReportGeneration

CLEANED = {
    "The heart is normal in size. The lungs are clear.": "the heart is normal in size . the lungs are clear .",
    "1. No acute disease. 2. Stable cardiomegaly... 3. T-spine: degenerative changes (mild); 'XXXX' <2.5 cm/s>.": (
        "no acute disease . stable cardiomegaly . t-spine degenerative changes mild xxxx 25 cms ."
    ),
    "FINDINGS: Low volumes?  No effusion.. IMPRESSION: Normal, chest @ rest": (
        "findings low volumes  no effusion . impression normal chest  rest ."
    ),
    "": " .",
    "Heart size 1.2. 5. Nodule \\ [left] {a} 50% * stable!": "heart size 12 . nodule  left a 50  stable .",
}
"""What the released cleaner (BenchX b874fa6) gave for these reports."""
REPORTS = (
    "FINDINGS: The heart is enlarged. No effusion.\nIMPRESSION: Cardiomegaly.",
    "FINDINGS: Large left effusion. Possible pneumonia.\nIMPRESSION: Effusion.",
    "FINDINGS: The lungs are clear. No pneumothorax.\nIMPRESSION: Normal chest.",
    "FINDINGS: Right apical pneumothorax. The heart is normal.\nIMPRESSION: Pneumothorax.",
)
GENERATED = (
    "Findings: The heart is enlarged. No pneumothorax.",
    "The lungs are clear. Large left effusion.",
    "No effusion. Possible pneumonia in the left lung.",
    "Small right apical pneumothorax. Large effusion.",
)


class Writer:
    """A model that knows a report for each shade of grey."""

    name = fingerprint = "writer"

    def generate(self, images: Sequence[Any], prompts: Sequence[Any], *, max_tokens: int = 64) -> list[str]:
        shades = [int(np.asarray(image.pixels_HWC)[0, 0, 0]) for image in images]
        return [GENERATED[shade] if shade < 4 else "The lungs are clear." for shade in shades]


def data() -> Pool:
    samples = [
        Sample(
            str(n), ArrayImage(np.full((8, 8, 3), n, np.uint8), str(n)), (Text(report, "en"),), extras={"patient": f"p{n // 2}"}
        )
        for n, report in enumerate(REPORTS)
    ]
    return Pool.from_samples(samples, name="reports")


def cleaned(reports: Sequence[str]) -> list[str]:
    return [" ".join(report_words(report)) for report in reports]


def corpus_bleu(generated: Sequence[str], order: int) -> float:
    scorer = BLEU(tokenize="none", max_ngram_order=order, smooth_method="none", force=True)
    return scorer.corpus_score(cleaned(generated), [cleaned(REPORTS)]).score / 100


def mean_rouge_l(generated: Sequence[str], weight: float = 1.2**2) -> float:
    """The mean of ROUGE-L with recall weighted as the COCO evaluation does."""
    scorer = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=str.split))
    scores = [scorer.score(*pair)["rougeL"] for pair in zip(cleaned(REPORTS), cleaned(generated), strict=True)]
    values = [(1 + weight) * one.precision * one.recall / (one.recall + weight * one.precision) for one in scores]
    return float(np.mean(values))


def test_words_are_those_of_the_released_code() -> None:
    for report, cleaned in CLEANED.items():
        assert report_words(report) == cleaned.split(), report


def test_scores_are_those_of_published_scorers(parity: Any, tmp_path: Path) -> None:
    task = ReportGeneration(draws=20)
    write_records(tmp_path / "records.parquet", task.predict(Writer(), data()))
    result = task.score(read_records(tmp_path / "records.parquet"))
    pairs = [(result.metrics[f"bleu_{order}"].value, corpus_bleu(GENERATED, order)) for order in (1, 2, 3, 4)]
    pairs.append((result.metrics["rouge_l"].value, mean_rouge_l(GENERATED)))
    assert 0.1 < pairs[3][1] < 0.9
    parity("benchx", "BLEU-1 to BLEU-4 and ROUGE-L of reports", "sacrebleu, rouge-score", pairs, tolerance=1e-6)
    for uncertain, kinds in (("absent", {"present"}), ("present", {"present", "uncertain"})):
        truth, predicted = (
            np.array([[findings(report).get(name) in kinds for name in FINDINGS] for report in reports])
            for reports in (REPORTS, GENERATED)
        )
        scored = ReportGeneration(draws=2, uncertain=uncertain).score(task.predict(Writer(), data()))  # type: ignore[arg-type]
        named = truth.any(0)
        expected = [
            sk.f1_score(truth, predicted, average="micro"),
            sk.f1_score(truth[:, named], predicted[:, named], average="macro", zero_division=0),
        ]
        assert [scored.metrics[name].value for name in ("finding_f1", "finding_macro_f1")] == pytest.approx(expected)
        assert 0 < expected[0] < 1
    assert result.metrics["bleu_4"].low <= result.value <= result.metrics["bleu_4"].high
    assert (result.n_items, result.n_groups) == (4, 2)


def test_grey_pictures_have_scores_of_their_own() -> None:
    task = ReportGeneration(draws=2)
    result = task.score(task.predict(Writer(), data()))
    assert result.metrics["bleu_1/blind"].value == pytest.approx(corpus_bleu(["The lungs are clear."] * 4, 1), abs=1e-6)
    assert result.metrics["finding_f1/blind"].value < result.metrics["finding_f1"].value
    alone = ReportGeneration(draws=2, blind=False)
    assert not [name for name in alone.score(alone.predict(Writer(), data())).metrics if "blind" in name]


def test_references_are_a_section_and_may_be_cut() -> None:
    task = ReportGeneration(draws=2, section="impression", blind=False, cut=1)
    records = task.predict(Writer(), data())
    assert records.column("report").to_pylist() == ["Cardiomegaly.", "Effusion.", "Normal chest.", "Pneumothorax."]
    whole = ReportGeneration(draws=2, section="impression", blind=False)
    assert whole.score(records).metrics["rouge_l"].value != task.score(records).metrics["rouge_l"].value
    with pytest.raises(DataError, match="no image with a report"):
        ReportGeneration(section="comparison").predict(Writer(), data())
    for wrong in ({"section": "summary"}, {"uncertain": "maybe"}, {"cut": -1}):
        with pytest.raises(ConfigError):
            ReportGeneration(**wrong)
    assert dp.evaluate(Writer(), "report_generation", data(), draws=2).task == "report_generation"
