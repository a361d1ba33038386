"""Correctness and consistency of conversations about images, by a symbolic table (Dr-LLaVA, 2405.19567)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, ReportColumns
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.policy.dialogue_generator import DialogueResponder
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.rewards.symbolic_table import is_consistent, symbolic_table


@dataclass(frozen=True)
class ClinicalDialogue:
    """Asks the questions of each sample in order. The main metric, `conversation`, is the fraction of conversations in which
    every answer has the reference value; `question` is the accuracy over answers, `last` over answers to the table's last
    question (the diagnosis), `consistent` the fraction of conversations whose consecutive answers occur together in a row of the
    table, correct or not; `unmatched` the fraction of answers that match no rule.

    The question's kind is its name in the table; the facet "reference", else the answer, is what is right. Data with shuffled questions or
    misleading requests are protocols of their own: `world:tissue_dialogues?misleading=true`.

    table   name of a packaged table, or a YAML file
    turns   "multi": each question follows the model's own answers; "single": each question alone
    max_tokens of an answer
    draws, seed of the intervals, which draw groups of images
    """

    name: ClassVar[str] = "clinical_dialogue"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = DialogueResponder
    main: ClassVar[str] = "conversation"
    report_columns: ClassVar[ReportColumns] = ReportColumns(item="uid", right="all_right", truth="references", answer="answers")

    table: str = "tissue"
    turns: Literal["multi", "single"] = "multi"
    max_tokens: int = 32
    draws: int = 1000
    seed: int = 0

    def predict(self, model: DialogueResponder, data: Dataset) -> pa.Table:
        table = symbolic_table(self.table)
        samples = [data[row] for row in range(len(data))]
        asked = [questions_of(sample) for sample in samples]
        for row, (sample, questions) in enumerate(zip(samples, asked, strict=True)):
            if sample.image is None or not questions or any(question.kind not in table.questions for question in questions):
                expected = f"an image, and questions of the kinds {', '.join(table.questions)}"
                raise DataError(
                    f"sample '{sample.uid}' cannot be asked", file=data.name, row=row, field="questions", expected=expected
                )
        answers = self._answers(model, [sample.image for sample in samples], [[q.text for q in one] for one in asked])
        names = [[question.kind for question in one] for one in asked]
        references = [[question.facets.get("reference", question.answers)[0] for question in one] for one in asked]
        values = [[table.value_of(*pair) for pair in zip(n, a, strict=True)] for n, a in zip(names, answers, strict=True)]
        true = [[table.value_of(*pair) for pair in zip(n, r, strict=True)] for n, r in zip(names, references, strict=True)]
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample in samples],
            "group": [sample.group or sample.uid for sample in samples],
            "names": names,
            "answers": answers,
            "references": references,
            "values": values,
            "true": true,
            "all_right": [None not in one and one == other for one, other in zip(values, true, strict=True)],
            "consistent": [is_consistent(table, n, one) for n, one in zip(names, values, strict=True)],
            "last": [
                [one[n.index(table.questions[-1])] == other[n.index(table.questions[-1])]] if table.questions[-1] in n else []
                for n, one, other in zip(names, values, true, strict=True)
            ],
        }
        return pa.table(columns)

    def _answers(self, model: DialogueResponder, images: Sequence[Any], asked: list[list[str]]) -> list[list[str]]:
        if self.turns == "multi":
            return model.converse(images, asked, max_tokens=self.max_tokens)
        flat = [(image, [text]) for image, texts in zip(images, asked, strict=True) for text in texts]
        alone = iter(model.converse([image for image, _ in flat], [texts for _, texts in flat], max_tokens=self.max_tokens))
        return [[next(alone)[0] for _ in texts] for texts in asked]

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        groups = records.column("group").to_pylist()
        values, true = records.column("values").to_pylist(), records.column("true").to_pylist()
        rows = list[list[float]]()
        columns = [records.column(name).to_pylist() for name in ("all_right", "consistent", "last")]
        for one, other, right, hangs, last in zip(values, true, *columns, strict=True):
            hits = sum(value is not None and value == there for value, there in zip(one, other, strict=True))
            rows.append([float(right), float(hangs), hits, one.count(None), len(one), float(sum(last)), len(last)])
        parts_NM = np.array(rows, np.float64)
        drawn_RM = resampled_means(parts_NM, groups, draws=self.draws, seed=self.seed)
        shares, spread = _shares(parts_NM.mean(0)), _shares(drawn_RM)
        metrics = {
            name: Metric(float(value), *percentiles(spread[name]), higher_is_better=name != "unmatched")
            for name, value in shares.items()
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)))


def _shares(mean_M: Any) -> dict[str, Any]:
    right, hangs, hits, none, count, last, asked = np.moveaxis(np.asarray(mean_M, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        diagnosis = last / asked
    return {"conversation": right, "question": hits / count, "last": diagnosis, "consistent": hangs, "unmatched": none / count}
