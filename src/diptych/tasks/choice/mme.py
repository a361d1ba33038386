"""MME: yes or no, two questions about each picture, in fourteen categories. Protocol `mme`, version 1."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator, ReadableRow
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.data.text.question_answering.questions import questions_of
from diptych.tasks._scoring.answers.cached_replies import cached_replies
from diptych.tasks._scoring.answers.yes_no import READERS, Reader, parse_yes_no
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TEXTS = ("uid", "group", "category", "question", "answer", "fault")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("true", pa.bool_())])


@dataclass(frozen=True)
class MME:
    """MME (Fu et al., 2023, arXiv 2306.13394): of each category the percentage of questions that are answered right, plus that of pictures
    both of whose questions are (`accuracy_plus`), so that one that always says yes has 50 of 200 points and not 100.

    `score/CATEGORY` is that sum, 0 to 200; `total` the sum over all categories of the data, `perception` and `cognition` over the ten and
    the four published ones, where the data have any of them. An answer that is neither yes nor no is wrong, and counted as `unread`.

    Data: questions with the answer yes or no and their category as `kind`; the questions of one picture are those of one `group`.

    reader    parser of answers: "prefix", as released, reads the first four letters; "single" is VLMEvalKit's (`_scoring.answers.yes_no`)
    suffix    text after each question; published questions have their own
    keep      cache answers of a local model on disk, so that a killed run can be resumed
    draws, seed of the intervals, which draw groups
    """

    name: ClassVar[str] = "mme"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Generator
    main: ClassVar[str] = "total"

    reader: Reader = "prefix"
    suffix: str = ""
    max_tokens: int = 16
    keep: bool = True
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ConfigError(f"reader is {self.reader!r} (expected {' | '.join(READERS)})")

    def predict(self, model: Generator, data: Dataset) -> pa.Table:
        """One row per question."""
        asked = []
        for row in range(len(data)):
            sample = data[row]
            for question in questions_of(sample):
                true = {"yes": True, "no": False}.get(question.answer.strip(" .").lower())
                if true is None or sample.image is None:
                    lacks = f"the answer {question.answer[:40]!r}" if true is None else "no image"
                    expected = "yes | no, about a picture"
                    raise DataError(f"'{sample.uid}' has {lacks}", file=data.name, row=row, field="questions", expected=expected)
                asked.append((sample, question, sample.image, true))
        if not asked:
            raise DataError(f"'{data.name}' has no question", field="questions", expected='extras["questions"] of samples')
        prompts = [f"{question.text} {self.suffix}".strip() for _, question, *_ in asked]
        images = [image for *_, image, _ in asked]
        replies = cached_replies(model, images, prompts, max_tokens=self.max_tokens, keep=self.keep)
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample, *_ in asked],
            "group": [sample.group or sample.uid for sample, *_ in asked],
            "category": [question.kind or "other" for _, question, *_ in asked],
            "question": prompts,
            "answer": [reply.text for reply in replies],
            "fault": [reply.fault for reply in replies],
            "true": [true for *_, true in asked],
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        groups, category_N = records.column("group").to_pylist(), np.array(records.column("category").to_pylist())
        right_N, plus_N = self._right(records), self._both_right(records)
        categories = sorted(set(category_N.tolist()))
        own_CN = [category_N == category for category in categories]
        wide_N2C = np.stack([np.where(own_N, value_N, np.nan) for value_N in (right_N, plus_N) for own_N in own_CN], 1)
        drawn_R2C = resampled_means(wide_N2C, groups, draws=self.draws, seed=self.seed).reshape(self.draws, 2, len(categories))
        score_C = 100 * np.nanmean(wide_N2C, 0).reshape(2, -1).sum(0)
        drawn_RC = 100 * drawn_R2C.sum(1)

        def total(names: tuple[str, ...]) -> Metric:
            columns = [column for column, category in enumerate(categories) if category in names]
            chance = 75.0 * len(columns)  # random guessing: half of the questions, a quarter of the images
            return Metric(float(score_C[columns].sum()), *percentiles(drawn_RC[:, columns].sum(1)), chance=chance, unit="points")

        parts = {"total": tuple(categories), "perception": PERCEPTION, "cognition": COGNITION}
        metrics = {name: total(names) for name, names in parts.items() if set(names) & set(categories)}
        metrics |= {f"score/{category}": total((category,)) for category in categories}
        means_R2 = resampled_means(np.stack([right_N, plus_N], 1), groups, draws=self.draws, seed=self.seed)
        for column, (name, value_N) in enumerate((("accuracy", right_N), ("accuracy_plus", plus_N))):
            metrics[name] = Metric(float(np.nanmean(value_N)), *percentiles(means_R2[:, column]), chance=(0.5, 0.25)[column])
        unread = [answer is None for answer in self._answers(records)]
        metrics["unread"] = Metric(float(np.mean(unread)), higher_is_better=False)
        notes = {
            **facts_of(records),
            "reader": self.reader,
            "chance": "a coin for each question, two questions a picture",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _answers(self, records: pa.Table) -> list[bool | None]:
        columns = (records.column(name).to_pylist() for name in ("answer", "fault", "true"))
        return [
            None if fault else parse_yes_no(answer, self.reader, truth=true) for answer, fault, true in zip(*columns, strict=True)
        ]

    def _right(self, records: pa.Table) -> Floats:
        truth = records.column("true").to_pylist()
        return np.array([float(answer is true) for answer, true in zip(self._answers(records), truth, strict=True)])

    def _both_right(self, records: pa.Table) -> Floats:
        """[N]: at the first question of each image, 1 if all its questions are correct, else 0; NaN at the others."""
        rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
        names = zip(records.column("category").to_pylist(), records.column("group").to_pylist(), strict=True)
        for row, name in enumerate(names):
            rows_of[name].append(row)
        right_N, plus_N = self._right(records), np.full(len(records), np.nan)
        for rows in rows_of.values():
            plus_N[rows[0]] = right_N[rows].min()
        return plus_N

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for "accuracy", and for "accuracy_plus", NaN except at the first question of an image."""
        values = {"accuracy": self._right, "accuracy_plus": self._both_right}
        return values[metric](records)[:, None] if metric in values else None

    def in_words(self, records: pa.Table) -> list[ReadableRow]:
        """Each question with the right answer and the answer."""
        columns = (records.column(name).to_pylist() for name in ("uid", "question", "true", "answer", "fault"))
        return [
            ReadableRow(uid, "", question, "yes" if true else "no", fault or answer.strip()[:160])
            for uid, question, true, answer, fault in zip(*columns, strict=True)
        ]
