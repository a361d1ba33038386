"""Radiology report generation against radiologists' reports.  Protocol `report_generation`, version 1 (BenchX, 2410.21969).

    bleu_4         corpus BLEU with n-grams up to 4, the main metric; bleu_1 to bleu_3 are also given
    rouge_l        ROUGE-L, a mean over reports
    finding_f1     micro F1 of CheXpert's fourteen findings, extracted by rules from both reports; finding_macro_f1 the mean over
                   those that occur in a reference. A finding is positive if present, or if uncertain with `uncertain="present"`
    .../blind      what the reports of plain grey pictures score

Reports resemble each other, so a text written without seeing the image can score well on word overlap: compare every metric with
the blind row, and look at the findings first. Tokenisation is R2Gen's: lower case, no punctuation except full stops between
sentences. METEOR is not computed, since it needs Java. Rules are weaker than a trained labeller such as CheXbert, and their
scores are not comparable.

Differences in BenchX's code: references are cut at 59 words (`cut=59`), and rare words on both sides become the same word,
"<unk>".
Its decoder is the task `report_head`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.data.text.reports.findings import FINDINGS, findings
from diptych.data.text.reports.report_words import CLEANINGS, Cleaning, report_words
from diptych.data.text.reports.sections import HEADINGS, sections
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.captions.metrics import bleu_counts, rouge_l
from diptych.tasks._scoring.chest_metrics import Bools, f1_scores
from diptych.tasks._scoring.intervals import codes, group_weights, percentiles
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.domains.patient_splits import patient_of


@dataclass(frozen=True, slots=True)
class ReportGeneration:
    """BLEU, ROUGE-L and F1 of findings of generated reports.

    prompt      prompt of the model; "" uses its own default prompt
    section     section of a report that is the reference, such as "findings"; "" uses the whole report. Images without it are left out
    group       name of the extra with the patient, or of the sample's own group
    max_tokens  maximum number of tokens of a generated report
    cut         maximum number of words of a reference; 0 uses all
    cleaning    cleaning of words, "iu_xray" or "mimic_cxr", as in R2Gen's code for these data sets
    uncertain   class of an uncertain finding
    blind       also generate reports of grey pictures
    draws, seed of the intervals, which draw patients
    """

    name: ClassVar[str] = "report_generation"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Generator
    main: ClassVar[str] = "bleu_4"

    prompt: str = ""
    section: str = ""
    group: str = "patient"
    max_tokens: int = 128
    cut: int = 0
    cleaning: Cleaning = "iu_xray"
    uncertain: Literal["absent", "present"] = "absent"
    blind: bool = True
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.section and self.section not in HEADINGS:
            raise ConfigError(f"section is {self.section!r} (expected '' | {' | '.join(HEADINGS)})")
        if self.uncertain not in ("absent", "present") or self.cut < 0 or self.max_tokens < 1:
            given = f"uncertain is {self.uncertain!r}, cut {self.cut}, max_tokens {self.max_tokens}"
            raise ConfigError(f"{given} (expected absent | present, 0 or more, 1 or more)")
        if self.cleaning not in CLEANINGS:
            raise ConfigError(f"cleaning is {self.cleaning!r} (expected {' | '.join(CLEANINGS)})")

    def predict(self, model: Generator, data: Dataset) -> pa.Table:
        """Returns one row per image, with its report and the generated one."""
        samples = [data[row] for row in range(len(data))]
        written = [(sample, self.reference(sample)) for sample in samples if sample.image is not None]
        kept = [(sample, reference) for sample, reference in written if reference]
        if not kept:
            raise DataError(f"'{data.name}' has no image with a report", field="texts", expected=self.section or "reports")
        images = [sample.image for sample, _ in kept if sample.image]
        prompts = [self.prompt] * len(kept)
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample, _ in kept],
            "group": [patient_of(sample, self.group) for sample, _ in kept],
            "report": [reference for _, reference in kept],
            "generated": model.generate(images, prompts, max_tokens=self.max_tokens),
        }
        if self.blind:
            columns[f"generated{BLIND}"] = model.generate(grey_images(images), prompts, max_tokens=self.max_tokens)
        return with_facts(pa.table(columns), options=asdict(self), left_out=len(data) - len(kept))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no report", expected="one row or more")
        groups = records.column("group").to_pylist()
        metrics = self._metrics(records, "generated", groups)
        if f"generated{BLIND}" in records.column_names:
            blind = self._metrics(records, f"generated{BLIND}", groups)
            metrics |= {f"{name}{BLIND}": metric for name, metric in blind.items()}
        notes = {**facts_of(records), "interval": f"95 % percentile, {self.draws} draws of patients"}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _metrics(self, records: pa.Table, column: str, groups: Sequence[str]) -> dict[str, Metric]:
        reports, generated = (records.column(name).to_pylist() for name in ("report", column))
        references = [report_words(report, self.cleaning)[: self.cut or None] for report in reports]
        answers = [report_words(report, self.cleaning) for report in generated]
        counts = bleu_counts(answers, [[words] for words in references])
        rouge_N = np.array([rouge_l(words, [reference]) for words, reference in zip(answers, references, strict=True)])
        truth_NK, predicted_NK = (self._positive(texts) for texts in (reports, generated))
        named_K = truth_NK.any(0)

        def values(rows: npt.NDArray[np.int64]) -> dict[str, float]:
            micro, _ = f1_scores(predicted_NK[rows], truth_NK[rows])
            macro = f1_scores(predicted_NK[rows][:, named_K], truth_NK[rows][:, named_K])[1] if named_K.any() else float("nan")
            bleu = {f"bleu_{order}": counts.score(order, rows) for order in (1, 2, 3, 4)}
            return {**bleu, "rouge_l": float(rouge_N[rows].mean()), "finding_f1": micro, "finding_macro_f1": macro}

        code_N, count = codes(groups)
        every = np.arange(len(groups))
        drawn = [
            values(np.repeat(every, weight_C[code_N].astype(np.int64)))
            for block in group_weights(count, self.draws, self.seed, len(groups))
            for weight_C in block
            if weight_C.any()
        ]
        spans = {name: percentiles(np.array([value[name] for value in drawn])) for name in (drawn[0] if drawn else ())}
        return {name: Metric(value, *spans.get(name, ())) for name, value in values(every).items()}

    def _positive(self, reports: Sequence[str]) -> Bools:
        """bool [N, K]: findings of each report that count as positive."""
        kinds = {"present", "uncertain"} if self.uncertain == "present" else {"present"}
        statuses = [findings(report) for report in reports]
        return np.array([[status.get(name) in kinds for name in FINDINGS] for status in statuses], bool)

    def reference(self, sample: Sample) -> str:
        """The report of a sample, or the chosen section of it; "" if missing."""
        report = sample.texts[0].string if sample.texts else ""
        return sections(report).get(self.section, "") if self.section else report.strip()
