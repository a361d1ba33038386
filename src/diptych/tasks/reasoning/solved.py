"""Problems that take several steps of reasoning, after each step.  Protocol `reasoning`, version 1.

A problem is solved if all of its answers are right: every cell of a Sudoku, given ones included, or the one answer to a question.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, ReadableRow, Reasoner
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.data.problems.problem import problem_of
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

TEXTS = ("uid", "group", "level", "answer")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("said", pa.list_(pa.string())), ("right", pa.list_(pa.float64()))])
BLOCK = 512
"""Samples that are asked at once."""


@dataclass(frozen=True)
class ReasoningTask:
    """`solved` is the share of problems that are solved after the last step, `answers` that of single answers; `solved/step_2` and so on
    say it after earlier steps, at powers of two, and `solved/LEVEL` by level: given cells, the story's task, or jumps.

    steps   reasoning steps; 0 uses the model's own number
    draws, seed  bootstrap draws and seed of the intervals, which resample groups of problems
    """

    name: ClassVar[str] = "reasoning"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Reasoner
    main: ClassVar[str] = "solved"

    steps: int = 0
    batch_size: int = 64
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps is {self.steps} (expected 1 or more, or 0 for the model's own)")

    def predict(self, model: Reasoner, data: Dataset) -> pa.Table:
        """A row a problem: "said" holds the answers after the last step, a text a problem's cell or question, "right" the share of them
        that is right after each step."""
        rows = []
        for start in range(0, len(data), BLOCK):
            samples = [data[row] for row in range(start, min(start + BLOCK, len(data)))]
            problems = [problem_of(sample) for sample in samples]
            for sample, problem, answers in zip(
                samples, problems, model.reason(samples, steps=self.steps, batch_size=self.batch_size), strict=True
            ):
                right_TA = np.array([[a == b for a, b in zip(step, problem.answers, strict=True)] for step in answers])
                rows.append(
                    {
                        "uid": sample.uid,
                        "group": sample.group or sample.uid,
                        "level": problem.level,
                        "answer": " ".join(problem.answers),
                        "said": list(answers[-1]),
                        "right": right_TA.mean(1).tolist(),
                    }
                )
        records = pa.Table.from_pylist(rows, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no problem", expected="one row or more")
        columns = self._columns(records)
        groups = records.column("group").to_pylist()
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(float(np.nanmean(value_N)), *percentiles(drawn_RM[:, column]), items=int((~np.isnan(value_N)).sum()))
            for column, (name, value_N) in enumerate(columns.items())
        }
        steps = len(records.column("right")[0])
        notes = {
            **facts_of(records),
            "steps": steps,
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def _columns(records: pa.Table) -> dict[str, Floats]:
        share_NT: Floats = np.array(records.column("right").to_pylist(), np.float64)
        solved_NT = (share_NT == 1.0).astype(np.float64)
        steps = share_NT.shape[1]
        columns = {"solved": solved_NT[:, -1], "answers": share_NT[:, -1]}
        early = [2**power for power in range(steps.bit_length()) if 2**power < steps]
        columns.update({f"solved/step_{step}": solved_NT[:, step - 1] for step in early})
        levels = np.array(records.column("level").to_pylist())
        for level in sorted(set(levels.tolist()) - {""}):
            columns[f"solved/{level.replace(' ', '_')}"] = np.where(levels == level, solved_NT[:, -1], np.nan)
        return columns

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1], NaN where a level does not apply; None for a metric that there is not."""
        value_N = self._columns(records).get(metric)
        return None if value_N is None else value_N[:, None]

    def in_words(self, records: pa.Table) -> list[ReadableRow]:
        return [
            ReadableRow(row["uid"], row["uid"], row["level"], row["answer"], " ".join(row["said"])) for row in records.to_pylist()
        ]
