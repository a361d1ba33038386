"""Continual retrieval over a stream of tasks: recall of earlier tasks after each stage, forgetting.  Protocol `continual`, version 1.

A task is the set of samples with certain values of a metadata column (a domain, a vendor, a year); it never depends on the order
of files. There is one model after each task, and one from before the first. With R[i, j] the score on task j after training on
task i (T tasks; i = 0 is the model from before the first):

    average       mean_j R[T, j]
    incremental   mean_i mean_{j <= i} R[i, j]
    backward      mean_{j < T} (R[T, j] - R[j, j])               negative is forgetting
    forgetting    mean_{j < T} (max_{1 <= l < T} R[l, j] - R[T, j])   positive is forgetting
    forward       mean_{j > 1} (R[j - 1, j] - R[0, j])           what earlier tasks give a later one

For R every task has its own gallery, because recall falls as a gallery grows, which is not forgetting. The growing gallery is
also scored: U[i, k] is the score of model i on the union of tasks 1..k. CTP (2308.07146) reports this one, and calls "BWT" the
number
mean_{i <= T} (U[i, i] - U[T, i]), which is POSITIVE for forgetting; it is `union_loss` here. What its code prints after the last task,
over all test samples: recalls at 1, 5 and 10 of either direction (`union`, `union_r@5`, `union_r@10` are the means of both) and their
mean, `union_mean` ("r_mean" there). Its search by category, with image and text read together, is protocol `category_search`.

Score: recall at 1, mean of both directions, ties worth their expectation (protocol `retrieval`). Letters: T tasks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Embedder, Role
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.pairs.retrieval import Retrieval

Matrix = npt.NDArray[np.float64]
FILE = "stream.json"
"""File with the tasks, stored beside the models of a stream."""


@dataclass(frozen=True, slots=True)
class TaskStream:
    """Ordered tasks of continual learning: `values[k]` are the values of the metadata column that make up task k."""

    column: str
    values: tuple[tuple[str, ...], ...]

    def task_of(self, sample: Sample) -> int:
        """Index of the sample's task from 0, -1 when it is in none."""
        value = value_of(sample, self.column)
        return next((k for k, values in enumerate(self.values) if value in values), -1)

    @property
    def names(self) -> list[str]:
        """Name of each task, usable in a file name."""
        return ["+".join("".join(c if c.isalnum() else "-" for c in value) for value in values)[:60] for values in self.values]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> TaskStream:
        """Stream from the file that `write` made. Raises ConfigError if there is no such file."""
        if not file.is_file():
            raise ConfigError(f"{file} is not a file (expected {FILE} in the folder `snapshots` of a run of recipe ctp)")
        plain = json.loads(file.read_text(encoding="utf-8"))
        return cls(plain["column"], tuple(tuple(values) for values in plain["values"]))


def value_of(sample: Sample, column: str) -> str | None:
    """Value of a sample's metadata column: a field such as "source" or "group", else an extra."""
    value = getattr(sample, column, None) if column in ("source", "licence", "group") else sample.extras.get(column)
    return None if value is None else str(value)


def stream_of(data: Dataset, columns: Sequence[str], *, order: Sequence[str] = (), at_most: int = 0) -> TaskStream:
    """Task stream of a data set, by the first of `columns` that all of its samples have.

    order    values in task order; others are left out. Empty: all values, sorted
    at_most  maximum number of tasks: neighbouring values share one; 0 gives each value its own
    """
    counts: dict[str, Counter[str]] = {column: Counter() for column in columns}
    for row in range(len(data)):
        sample = data[row]
        for column, counter in counts.items():
            if (value := value_of(sample, column)) is not None:
                counter[value] += 1
    whole = [column for column, counter in counts.items() if counter.total() == len(data)]
    if not whole:
        extras = ", ".join(sorted(data[0].extras)) if len(data) else "none"
        raise DataError(
            f"'{data.name}' has no column {' or '.join(columns)} in every row",
            field="task",
            expected=f"a metadata column that tells the tasks apart; the first sample has: {extras}",
        )
    distinct = sorted(counts[whole[0]])
    for value in order:
        if value not in distinct:
            raise UnknownName(f"value of column {whole[0]}", value, distinct)
    values = list(order) or distinct
    count = min(at_most or len(values), len(values))
    cuts = [round(k * len(values) / count) for k in range(count + 1)]
    return TaskStream(whole[0], tuple(tuple(values[a:b]) for a, b in pairwise(cuts)))


@dataclass(frozen=True, slots=True)
class Continual:
    """Retrieval by every stage of a continual run: the whole score matrix.

    Asks for `snapshots` beside the model: those of a run of recipe `ctp`, the one from before the first task first. The model that is
    evaluated has to be the last of them.

    stream    file `stream.json` beside the snapshots, which defines the tasks
    language, origins   texts to retrieve, as in `retrieval`
    """

    name: ClassVar[str] = "continual"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "average"
    roles: ClassVar[tuple[Role, ...]] = (Role("snapshots", Embedder, "the models of the stream, in order", many=True),)

    stream: str = ""
    language: str = "en"
    origins: tuple[str, ...] = ()

    def predict(self, model: Embedder, data: Dataset, *, snapshots: Sequence[Embedder] = ()) -> pa.Table:
        """The rows of `retrieval`, with the stage of the model, the task of the query, and `upto`: the tasks in the gallery, -1 for the
        query's own task alone."""
        if not self.stream:
            raise ConfigError("task 'continual' needs the list of tasks (expected --stream RUN/snapshots/stream.json)")
        stream = TaskStream.read(Path(self.stream))
        if len(snapshots) != len(stream.values) + 1:
            raise ConfigError(f"there are {len(snapshots)} snapshots (expected {len(stream.values) + 1}: one more than tasks)")
        if snapshots[-1].fingerprint != model.fingerprint:
            raise ConfigError("the last of the snapshots is not the model that is evaluated")
        return self.records(snapshots, stream, data)

    def records(self, models: Sequence[Embedder], stream: TaskStream, data: Dataset) -> pa.Table:
        """Records of the given models; the first is the one from before the first task."""
        task_of = [stream.task_of(data[row]) for row in range(len(data))]
        number = dict(zip(data.uids, task_of, strict=True))
        ask = Retrieval(language=self.language, origins=self.origins)
        tables = []
        for stage, model in enumerate(models):
            galleries = [(-1, [task]) for task in range(len(stream.values))]
            galleries += [(last, list(range(last + 1))) for last in range(stage)]
            for upto, tasks in galleries:
                rows = [row for row, task in enumerate(task_of) if task in tasks]
                if not rows:
                    raise DataError(f"'{data.name}' has no sample of task {stream.names[tasks[0]]!r}", field=stream.column)
                table = ask.predict(model, data.select(rows))
                task_N = [number[uid] for uid in table.column("query").to_pylist()]
                for name, values in (("stage", [stage] * len(table)), ("upto", [upto] * len(table)), ("task", task_N)):
                    table = table.append_column(name, pa.array(values, pa.int64()))
                tables.append(table.replace_schema_metadata(None))
        return with_facts(pa.concat_tables(tables), options=asdict(self), column=stream.column, tasks=stream.names)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers. Intervals are left out: stages of one run share their
        mistakes."""
        names = facts_of(records)["tasks"]
        count = len(names)
        own_RT = np.full((count + 1, count), np.nan)
        union_RT = np.full((count + 1, count), np.nan)
        for stage in range(count + 1):
            for task in range(count):
                own_RT[stage, task] = _recall(records, stage, -1, task)
                if task < stage:
                    union_RT[stage, task] = _recall(records, stage, task, None)
        whole = _recalls(records, count, count - 1, None)
        numbers = summary(own_RT) | {"union": float(union_RT[-1, -1]), "union_loss": union_loss(union_RT)}
        numbers |= {f"union_r@{k}": whole[f"r@{k}"] for k in (5, 10)}
        numbers["union_mean"] = float(np.mean([whole[f"{side}_r@{k}"] for side in ("i2t", "t2i") for k in (1, 5, 10)]))
        numbers |= {f"r[{i},{j + 1}]": float(own_RT[i, j]) for i in range(count + 1) for j in range(count)}
        notes = {**facts_of(records), "score": "recall at 1, mean of both directions", "own_gallery": own_RT.tolist()}
        notes["growing_gallery"] = [[None if np.isnan(x) else float(x) for x in row] for row in union_RT]
        metrics = {name: Metric(value, higher_is_better=name not in LOSSES) for name, value in numbers.items()}
        groups = len(set(records.column("group").to_pylist()))
        return Result(self.name, self.version, self.main, metrics, len(records), groups, notes=notes)


LOSSES = ("forgetting", "union_loss")
"""Metrics for which lower is better: the loss on a task since it was learned."""


def _recall(records: pa.Table, stage: int, upto: int, task: int | None) -> float:
    return _recalls(records, stage, upto, task)["r@1"]


def _recalls(records: pa.Table, stage: int, upto: int, task: int | None) -> dict[str, float]:
    mask = pc.and_(pc.equal(records["stage"], stage), pc.equal(records["upto"], upto))
    if task is not None:
        mask = pc.and_(mask, pc.equal(records["task"], task))
    part = records.filter(mask)
    return {name: metric.value for name, metric in Retrieval(draws=1).score(part).metrics.items()}


def summary(score_RT: Matrix) -> dict[str, float]:
    """The five metrics of the module docstring from R [T + 1, T], whose first row is the model from before the first task.

    With a single task, backward, forgetting and forward are NaN.
    """
    score_RT = np.asarray(score_RT, np.float64)
    count = score_RT.shape[1]
    if score_RT.shape != (count + 1, count) or not count:
        raise ConfigError(f"a score matrix is [T + 1, T], the start first; got {list(score_RT.shape)}")
    start_T, after_TT = score_RT[0], score_RT[1:]
    last_T = after_TT[-1]
    earlier = range(count - 1)
    return {
        "average": float(last_T.mean()),
        "incremental": _mean(after_TT[i, : i + 1].mean() for i in range(count)),
        "backward": _mean(last_T[j] - after_TT[j, j] for j in earlier),
        "forgetting": _mean(after_TT[:-1, j].max() - last_T[j] for j in earlier),
        "forward": _mean(after_TT[j - 1, j] - start_T[j] for j in range(1, count)),
    }


def union_loss(union_RT: Matrix) -> float:
    """mean_i (U[i, i] - U[T, i]), CTP's "BWT": positive is forgetting. The first row of U is not read."""
    after_TT = np.asarray(union_RT, np.float64)[1:]
    return float(np.mean(np.diag(after_TT) - after_TT[-1]))


def _mean(values: Iterable[Any]) -> float:
    numbers = [float(value) for value in values]
    return float(np.mean(numbers)) if numbers else float("nan")
