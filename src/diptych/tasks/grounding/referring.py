"""Referring expressions: does the best box for an expression lie on the one thing it means?  Protocol `referring`, version 1.

RefCOCO, RefCOCO+, RefCOCOg: one row a sentence; right where the best box has an IoU of at least .5 with the true one. Boxes that share the
best score share the point. The unit of the intervals is the group (the picture).

    accuracy@0.5   the number that is printed everywhere; main
    accuracy@0.75  the same, stricter
    iou            mean IoU of the best box

What others do differently: MDETR's released evaluator thresholds the *generalised* IoU, which changes some 7 % of the decisions on boxes
that are a little off; equal scores fall to the coordinates of the boxes. A sentence for which a model gives no box is wrong here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector, Grounder
from diptych.core.errors import DataError
from diptych.core.grounding import PhraseQuery
from diptych.core.result import Result
from diptych.data.text.captions.phrases import sentences_of
from diptych.tasks._scoring.detection.boxes import overlaps
from diptych.tasks._scoring.means import Means
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks.grounding.asking import boxes_of

LEVELS = (0.5, 0.75)
ASKED = 50
"""Boxes that a model is asked for: enough to see which share the best score."""


@dataclass(frozen=True, slots=True)
class Referring:
    """Accuracy of the best box over expressions of one phrase with one region (`extras["grounding"]`)."""

    name: ClassVar[str] = "referring"
    version: ClassVar[int] = 1
    needs: ClassVar[type | UnionType] = Grounder | Detector
    main: ClassVar[str] = "accuracy@0.5"

    draws: int = 2000
    seed: int = 0

    def predict(self, model: Grounder | Detector, data: Dataset) -> pa.Table:
        """One row a sentence: iou is the mean over the boxes with the best score, at_0.5 and at_0.75 their share that lies on it."""
        rows: list[dict[str, Any]] = []
        for row, group in enumerate(data.groups):
            sample = data[row]
            expressions = [s for s in sentences_of(sample) if len(s.phrases) == 1 and len(s.phrases[0].regions) == 1]
            if sample.image is None or not expressions:
                continue
            queries = [PhraseQuery(s.text, (s.phrases[0].spans,)) for s in expressions]
            answers = boxes_of(model, [sample.image] * len(queries), queries, top=ASKED)
            for sentence, (answer,) in zip(expressions, answers, strict=True):
                region = sample.regions[sentence.phrases[0].regions[0]]
                best_N = answer.score_N == answer.score_N.max() if len(answer.score_N) else np.zeros(0, bool)
                iou_N = overlaps(answer.box_N4[best_N], [region.box])[:, 0]
                rows.append(
                    {"uid": sample.uid, "group": group, "text": sentence.text, "tied": len(iou_N) > 1, "iou": _mean(iou_N)}
                    | {f"at_{level}": _mean(iou_N >= level) for level in LEVELS}
                )
        if not rows:
            raise DataError(
                f"'{data.name}' has no expression that means one region",
                field="grounding",
                expected='samples with extras["grounding"], sentences of one phrase and one region',
            )
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self), ties="expected")

    def score(self, records: pa.Table) -> Result:
        """Pure: the same rows give the same numbers."""
        groups = records.column("group").to_pylist()
        means = Means(groups, draws=self.draws, seed=self.seed)
        columns = {f"accuracy@{level}": means.add(array(records, f"at_{level}")) for level in LEVELS}
        columns["iou"] = means.add(array(records, "iou"))
        metrics = {name: means.metric(column) for name, column in columns.items()}
        notes = {**facts_of(records), "share_tied": float(array(records, "tied").mean())}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """[N, 1]"""
        column = "iou" if metric == "iou" else metric.replace("accuracy@", "at_")
        if column not in records.column_names:
            return None
        return array(records, column).astype(np.float64)[:, None]


def _mean(value_N: npt.NDArray[Any]) -> float:
    return float(value_N.mean()) if len(value_N) else 0.0
