"""Object hallucination by yes-or-no questions (POPE)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator, Ranker
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.answers.polling import SETTINGS, poll_questions
from diptych.tasks._scoring.answers.yes_no import READERS, Reader, confusion, parse_yes_no, scores
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

How = Literal["write", "mean", "sum"]
NAMES = ("accuracy", "precision", "recall", "f1", "yes")
TEXTS = ("uid", "group", "setting", "object", "question", "answer", "blind_answer")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("there", pa.bool_())])


@dataclass(frozen=True)
class POPE:
    """POPE: asks whether an object is in the image, for `count` present objects (labels of regions) and as many absent ones per
    image. Absent objects are drawn in three settings: at random, by frequency, and by co-occurrence with the present ones. "Yes"
    is the positive class; the main metric is the mean F1 of the three (2305.10355), reported with the fraction of yes: a model
    that always agrees has recall 1, F1 2/3 and a fraction of 1. An answer that is neither yes nor no is wrong and counted as
    `unread`. The blind row asks the same questions about a plain grey image: an F1 far above 2/3 there means that the questions
    can be answered from the frequencies of objects.

    count     maximum number of pairs of questions per image and setting (published 3, for images with more than 3 objects)
    template  question with {} for the object; "a " becomes "an " before a vowel, as intended by the released generator
    how       "write": generate the answer; "mean" or "sum": compare the likelihoods of "yes" and "no", in nats per token or in total
    reader    parser of generated answers: first | released | single | whole | prefix | contained (`_scoring.answers.yes_no`)
    suffix    text after each question
    blind     also ask about grey pictures
    draws, seed of the intervals, which draw groups of samples; `seed` also of the absent objects at random
    """

    name: ClassVar[str] = "pope"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Generator | Ranker
    main: ClassVar[str] = "f1"

    count: int = 3
    template: str = "Is there a {} in the image?"
    how: How = "write"
    reader: Reader = "first"
    suffix: str = ""
    blind: bool = True
    max_tokens: int = 16
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ConfigError(f"template is {self.template!r} (expected one {{}} in it)")
        if self.reader not in READERS or self.how not in get_args(How) or self.count < 1:
            raise ConfigError(
                f"reader is {self.reader!r}, how {self.how!r}, count {self.count} "
                f"(expected {' | '.join(READERS)}; {' | '.join(get_args(How))}; 1 or more)"
            )

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        if not isinstance(model, Generator if self.how == "write" else Ranker):
            other = "mean | sum" if self.how == "write" else "write"
            raise ConfigError(f"'{getattr(model, 'name', model)}' cannot answer by how={self.how} (expected {other})")
        samples = [data[row] for row in range(len(data))]
        objects = [list(dict.fromkeys(region.label for region in sample.regions if region.label)) for sample in samples]
        rows = [
            (sample, setting, name, there)
            for setting in SETTINGS
            for sample, polled in zip(samples, poll_questions(objects, setting, count=self.count, seed=self.seed), strict=True)
            for name, there in polled
        ]
        if not rows:
            raise DataError(
                f"'{data.name}' has no labelled objects to ask about",
                field="regions",
                expected="regions with labels, of two kinds or more",
            )
        for sample, *_ in rows:
            if sample.image is None:
                raise DataError(f"sample '{sample.uid}' has regions and no image", file=data.name, field="image")
        images = [sample.image for sample, *_ in rows]
        questions = [f"{self.question(name)} {self.suffix}".strip() for _, _, name, _ in rows]
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample, *_ in rows],
            "group": [sample.group or sample.uid for sample, *_ in rows],
            "setting": [setting for _, setting, *_ in rows],
            "object": [name for _, _, name, _ in rows],
            "question": questions,
            "answer": self._answers(model, images, questions),
            "blind_answer": self._answers(model, grey_images(images), questions) if self.blind else [None] * len(rows),  # type: ignore[arg-type]
            "there": [there for *_, there in rows],
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def question(self, name: str) -> str:
        """
        >>> POPE().question("orange")
        'Is there an orange in the image?'
        """
        head, _, tail = self.template.partition("{}")
        if head.endswith(" a ") and name[:1].lower() in tuple("aeiou"):
            head = f"{head[:-1]}n "
        return f"{head}{name}{tail}"

    def _answers(self, model: Any, images: Any, questions: list[str]) -> list[str]:
        if self.how == "write":
            written: list[str] = model.generate(images, questions, max_tokens=self.max_tokens)
            return written
        tables = model.answer_nll(images, questions, [["yes", "no"]] * len(questions))
        costs = [table[:, 0] / table[:, 1] if self.how == "mean" else table[:, 0] for table in tables]
        return [("yes", "no")[int(np.argmin(cost))] for cost in costs]

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no question", expected="one row or more")
        groups, blind = records.column("group").to_pylist(), records.column("blind_answer").null_count == 0
        metrics = self._metrics(records, "answer", groups, "")
        if blind:
            blind_metrics = self._metrics(records, "blind_answer", groups, BLIND)
            metrics |= {name: blind_metrics[name] for name in (f"accuracy{BLIND}", f"f1{BLIND}", f"yes{BLIND}")}
        notes: dict[str, Any] = {
            **facts_of(records),
            "f1": "mean of the settings; yes is the positive class",
            "reader": self._reader(records),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _metrics(self, records: pa.Table, column: str, groups: list[str], ending: str) -> dict[str, Metric]:
        reader = self._reader(records)
        part_N5 = confusion(np.array(records.column("there").to_pylist()), self._verdicts(records, column), reader)
        setting_N = np.array(records.column("setting").to_pylist())
        settings = [setting for setting in SETTINGS if (setting_N == setting).any()]
        wide = np.concatenate([np.where((setting_N == setting)[:, None], part_N5, np.nan) for setting in settings], 1)
        drawn_RS5 = resampled_means(wide, groups, draws=self.draws, seed=self.seed).reshape(self.draws, len(settings), 5)
        mean_S5 = np.nanmean(wide, 0).reshape(len(settings), 5)
        values, drawn = scores(mean_S5), scores(drawn_RS5)
        metrics = {
            f"{name}{ending}": Metric(
                float(values[name].mean()), *percentiles(drawn[name].mean(1)), chance=self._chance(name), items=len(records)
            )
            for name in NAMES
        }
        for index, setting in enumerate(settings if not ending else ()):
            for name in NAMES:
                metrics[f"{name}/{setting}"] = Metric(
                    float(values[name][index]),
                    *percentiles(drawn[name][:, index]),
                    chance=self._chance(name),
                    items=int((setting_N == setting).sum()),
                )
        unread = float(np.mean([parse_yes_no(answer, reader) is None for answer in records.column(column).to_pylist()]))
        return {**metrics, f"unread{ending}": Metric(unread, higher_is_better=False)}

    def _verdicts(self, records: pa.Table, column: str) -> list[bool | None]:
        """The answer to each question: True for yes, False for no, None for neither."""
        rows = zip(records.column(column).to_pylist(), records.column("there").to_pylist(), strict=True)
        return [parse_yes_no(answer, self._reader(records), truth=there) for answer, there in rows]

    def _reader(self, records: pa.Table) -> Reader:
        reader: Reader = facts_of(records).get("options", {}).get("reader", self.reader)
        return reader

    @staticmethod
    def _chance(name: str) -> float:
        """Chance level of always saying yes, with as many present as absent objects."""
        return {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "yes": 1.0}[name]

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for "accuracy"; F1 is not a mean over items."""
        if metric != "accuracy":
            return None
        reader = self._reader(records)
        return confusion(np.array(records.column("there").to_pylist()), self._verdicts(records, "answer"), reader)[:, 3:4]
