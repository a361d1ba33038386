"""Symbolic goals of instructions in pictures, and plans that reach them (SGL, 2202.12912).  Protocol `goals`, version 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, GoalPredictor, ReadableRow
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.data.planning.goals import Goal, goal_of, labels_of, named_goal_of
from diptych.data.planning.planner import accepts, plan_for
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

PARTS = ("predicate", "subject", "object")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("uid", "group", "text")),
        *((name, pa.list_(pa.string())) for name in ("goal", "predicted", "labels")),
        *((name, pa.bool_()) for name in ("open", "planned", "accepted")),
        ("refusal", pa.string()),
    ]
)
BLOCK = 256
"""Samples that are asked at once."""


@dataclass(frozen=True)
class SymbolicGoals:
    """`exact` is the share of goals whose three parts are all right; `exact/predicate`, `exact/subject` and `exact/object` that of each;
    `exact/open` where the sentence leaves the tool open, `exact/missing` where the picture lacks something that the goal needs.
    `accepted` is the share, of goals that can be reached, whose plan for what was predicted the validator accepts for the true goal;
    `refused` the share, of goals with a missing part, for which nothing is planned.

    plans       plan for every prediction (extra `planning`) among what the sample says is to be seen
    parity_test accuracy as released, (predicate == subject) == object of the three right-or-wrong flags, which counts "right, wrong,
                wrong" as right
    draws, seed of the intervals, which draw groups of samples
    """

    name: ClassVar[str] = "goals"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = GoalPredictor
    main: ClassVar[str] = "exact"

    plans: bool = True
    parity_test: bool = False
    batch_size: int = 64
    draws: int = 1000
    seed: int = 0

    def predict(self, model: GoalPredictor, data: Dataset) -> pa.Table:
        """A row a sample."""
        rows = []
        for start in with_bar(range(0, len(data), BLOCK), -(-len(data) // BLOCK), "goals", least=2):
            samples = [data[row] for row in range(start, min(start + BLOCK, len(data)))]
            texts, images = [_sentence(sample) for sample in samples], [_picture(sample) for sample in samples]
            predicted = model.predict_goals(images, texts, batch_size=self.batch_size)
            rows += [self._row(sample, text, Goal(*goal)) for sample, text, goal in zip(samples, texts, predicted, strict=True)]
        records = pa.Table.from_pylist(rows, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _row(self, sample: Sample, text: str, predicted: Goal) -> dict[str, object]:
        goal, labels = goal_of(sample), labels_of(sample)
        planned, accepted, refusal = False, False, ""
        if self.plans:
            plan = plan_for(predicted, labels)
            planned, refusal = plan.steps is not None, plan.refusal
            accepted = accepts(plan, goal, labels)
        return {
            "uid": sample.uid,
            "group": sample.group or sample.uid,
            "text": text,
            "goal": [goal.predicate, goal.subject, goal.object],
            "predicted": [predicted.predicate, predicted.subject, predicted.object],
            "labels": list(labels),
            "open": not named_goal_of(sample).object,
            "planned": planned,
            "accepted": accepted,
            "refusal": refusal,
        }

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no goal", expected="one row or more")
        columns = self._columns(records)
        groups = records.column("group").to_pylist()
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(float(np.nanmean(value_N)), *percentiles(drawn_RM[:, column]), items=int((~np.isnan(value_N)).sum()))
            for column, (name, value_N) in enumerate(columns.items())
        }
        notes = {**facts_of(records), "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}"}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _columns(self, records: pa.Table) -> dict[str, Floats]:
        right_N3 = np.array(records.column("goal").to_pylist()) == np.array(records.column("predicted").to_pylist())
        complete_N = np.array([Goal(*goal).complete for goal in records.column("goal").to_pylist()])
        open_N, accepted_N, planned_N = (np.array(records.column(name).to_pylist()) for name in ("open", "accepted", "planned"))
        exact_N = goal_accuracy(right_N3, parity_test=self.parity_test)
        columns = {"exact": exact_N, **{f"exact/{part}": right_N3[:, number].astype(float) for number, part in enumerate(PARTS)}}
        for name, value_N, here_N in (
            ("exact/open", exact_N, open_N),
            ("exact/missing", exact_N, ~complete_N),
            ("accepted", accepted_N, complete_N),
            ("refused", ~planned_N, ~complete_N),
        ):
            if here_N.any() and (self.plans or name.startswith("exact")):
                columns[name] = np.where(here_N, value_N.astype(float), np.nan)
        return columns

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1], NaN where a metric does not apply; None for a metric that there is not."""
        value_N = self._columns(records).get(metric)
        return None if value_N is None else value_N[:, None]

    def in_words(self, records: pa.Table) -> list[ReadableRow]:
        say: Callable[[Sequence[str]], str] = " ".join
        return [
            ReadableRow(row["uid"], row["uid"], row["text"], say(row["goal"]), say(row["predicted"]))
            for row in records.to_pylist()
        ]


def goal_accuracy(right_N3: npt.NDArray[np.bool_], *, parity_test: bool = False) -> Floats:
    """float64 [N]: 1 where all three parts are right; or as released, (predicate == subject) == object.

    >>> right = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]], bool)
    >>> float(goal_accuracy(right).mean()), float(goal_accuracy(right, parity_test=True).mean())
    (0.2, 0.6)
    """
    exact_N = np.all(right_N3, 1) if not parity_test else (right_N3[:, 0] == right_N3[:, 1]) == right_N3[:, 2]
    return np.asarray(exact_N, np.float64)


def _sentence(sample: Sample) -> str:
    texts = sample.positives()
    if not texts:
        raise DataError(f"sample '{sample.uid}' has no sentence", field="texts", expected="an instruction or an intent")
    return texts[0].string


def _picture(sample: Sample) -> ImageSource:
    if sample.image is None:
        raise DataError(f"sample '{sample.uid}' has no picture", field="image", expected="the scene")
    return sample.image
