"""Visual question answering, in free words or by likelihood."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator, Ranker
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.data.text.question_answering.questions import questions_of
from diptych.tasks._scoring.answers.answer_match import normalised, vqa_accuracy
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

TEXTS = ("uid", "group", "kind", "question", "answer")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("people", pa.list_(pa.string())), ("blind_answer", pa.string())])
How = Literal["write", "mean", "sum"]


@dataclass(frozen=True)
class VQA:
    """VQA accuracy over all questions of every sample (extras["questions"]): with ten human answers, 1/3 for each other annotator
    who gave the answer; with up to three, 1 if any of them gave it. Answers are normalised as in the release, and also if all
    annotators agree (`released` skips that, as the release does).

    Also reported: accuracy for each kind, the fraction of empty answers, and the fraction of "yes" among answers to yes-no
    questions. The chance level is the accuracy of always giving the most frequent answer of the kind; the blind row
    (`accuracy/blind`) is the accuracy with plain grey images.

    how         "write": greedy decoding; "mean" or "sum": the most likely of all answers to questions of that kind, by nats per token or in
                total
    prefix      text before each question
    suffix      text after each question, such as "Answer with a single word or phrase."
    blind       also ask about grey pictures
    max_tokens  maximum number of tokens of a generated answer
    draws, seed of the intervals, which draw groups of samples
    released   leaves out what the evaluator and its text disagree about, as the release does
    """

    name: ClassVar[str] = "vqa"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Generator | Ranker
    main: ClassVar[str] = "accuracy"

    how: How = "write"
    prefix: str = ""
    suffix: str = ""
    released: bool = False
    blind: bool = True
    max_tokens: int = 10
    draws: int = 1000
    seed: int = 0

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        if not isinstance(model, Generator if self.how == "write" else Ranker):
            other = "mean | sum" if self.how == "write" else "write"
            raise ConfigError(f"'{getattr(model, 'name', model)}' cannot answer by how={self.how} (expected {other})")
        pairs = []
        for row in range(len(data)):
            sample = data[row]
            questions = questions_of(sample)
            if questions and sample.image is None:
                raise DataError(f"sample '{sample.uid}' has questions and no image", file=data.name, row=row, field="image")
            pairs += [(sample, question) for question in questions]
        if not pairs:
            raise DataError(f"'{data.name}' has no question", field="questions", expected='extras["questions"] of samples')
        images = [sample.image for sample, _ in pairs if sample.image is not None]
        prompts = [f"{self.prefix} {question.text} {self.suffix}".strip() for _, question in pairs]
        nothing: list[Any] = [None] * len(pairs)
        columns = {
            "uid": [sample.uid for sample, _ in pairs],
            "group": [sample.group or sample.uid for sample, _ in pairs],
            "kind": [question.kind for _, question in pairs],
            "question": [question.text for _, question in pairs],
            "answer": self._answers(model, images, prompts, pairs),
            "people": [list(question.answers) for _, question in pairs],
            "blind_answer": self._answers(model, grey_images(images), prompts, pairs) if self.blind else nothing,
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _answers(self, model: Any, images: Any, prompts: list[str], pairs: Any) -> list[str]:
        if self.how == "write":
            written: list[str] = model.generate(images, prompts, max_tokens=self.max_tokens)
            return written
        return self._choose_answers(model, images, prompts, pairs)

    def _choose_answers(self, model: Any, images: Any, prompts: list[str], pairs: Any) -> list[str]:
        answers_of_kind: dict[str, dict[str, None]] = {}
        for _, question in pairs:
            answers_of_kind.setdefault(question.kind, {}).update(dict.fromkeys(question.answers))
        choices = [sorted(answers_of_kind[question.kind]) for _, question in pairs]
        tables = model.answer_nll(images, prompts, choices)
        nats = [table[:, 0] / table[:, 1] if self.how == "mean" else table[:, 0] for table in tables]
        return [names[int(np.argmin(costs))] for names, costs in zip(choices, nats, strict=True)]

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        kinds, answers, groups = (records.column(name).to_pylist() for name in ("kind", "answer", "group"))
        people = records.column("people").to_pylist()
        right_N = self._right(records)
        chance_N = self._chance(kinds, people)
        yes_no = np.array([{normalised(person) for person in given} <= {"yes", "no"} for given in people])
        columns = {"accuracy": right_N, "empty": np.array([float(not answer.strip()) for answer in answers])}
        for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
            columns[f"accuracy/{kind or 'other'}"] = np.where(np.array(kinds) == kind, right_N, np.nan)
        if yes_no.any():
            columns["yes"] = np.where(yes_no, [float(normalised(answer) == "yes") for answer in answers], np.nan)
        if "blind_answer" in records.column_names and not records.column("blind_answer").null_count:
            columns[f"accuracy{BLIND}"] = self._right(records, "blind_answer")
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {}
        for column, (name, value_N) in enumerate(columns.items()):
            here = ~np.isnan(value_N)
            metrics[name] = Metric(
                float(value_N[here].mean()),
                *percentiles(drawn_RM[:, column]),
                chance=float(chance_N[here].mean()) if name.startswith("accuracy") else float("nan"),
                higher_is_better=name != "empty",
                items=int(here.sum()),
            )
        notes: dict[str, Any] = {
            **facts_of(records),
            "chance": "the most frequent answer of each kind",
            "people": sum(map(len, people)) / len(people),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _right(self, records: pa.Table, which: str = "answer") -> Floats:
        answers, people = records.column(which).to_pylist(), records.column("people").to_pylist()
        always = not facts_of(records).get("options", {}).get("released", self.released)
        return np.array([vqa_accuracy(*pair, always=always) for pair in zip(answers, people, strict=True)], np.float64)

    @staticmethod
    def _chance(kinds: list[str], people: list[list[str]]) -> Floats:
        counts: dict[str, Counter[str]] = {}
        for kind, given in zip(kinds, people, strict=True):
            counts.setdefault(kind, Counter())[normalised(given[0])] += 1
        usual = {kind: answers.most_common(1)[0][0] for kind, answers in counts.items()}
        pairs = zip(kinds, people, strict=True)
        return np.array([vqa_accuracy(usual[kind], given, always=True) for kind, given in pairs], np.float64)

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for "accuracy" and the accuracy of each kind, NaN for questions of other kinds."""
        if not metric.startswith("accuracy") or metric.endswith(BLIND):
            return None
        right_N = self._right(records)
        if metric != "accuracy":
            asked_kind = metric.removeprefix("accuracy/")
            kinds = np.array([kind or "other" for kind in records.column("kind").to_pylist()])
            right_N = np.where(kinds == asked_kind, right_N, np.nan)
        return right_N[:, None]
