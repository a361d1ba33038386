"""Referring expression comprehension: accuracy of the best box.  Protocol `referring`, version 1.

RefCOCO, RefCOCO+, RefCOCOg: one row per sentence, correct if the best box has an IoU of at least .5 with the true one. Boxes that
tie for the best score share the credit. The unit of the intervals is the group (the image).

    accuracy@0.5   the metric that papers report; main
    accuracy@0.75  the same, stricter
    iou            mean IoU of the best box
    top5, top10    share of expressions with a box among the first 5, the first 10, that has an IoU of at least .5

MDETR's released evaluator, copied by FIBER, thresholds the *generalised* IoU, which changes about 7 % of the decisions on
slightly shifted boxes, and breaks ties by the box coordinates, larger first: `compat="published"`. It crashes on a sentence
without a predicted box; such a sentence counts as wrong here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.box_iou import box_iou
from diptych.core.contracts import Dataset, Detector, Grounder
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseQuery
from diptych.core.result import Result
from diptych.data.text.captions.phrases import sentences_of
from diptych.tasks._scoring.means import Means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks.grounding.box_queries import boxes_of

LEVELS = (0.5, 0.75)
DEPTHS = (5, 10)
Floats = npt.NDArray[np.float64]
ASKED = 50
"""Number of boxes requested from the model: enough to detect ties for the best score."""


@dataclass(frozen=True, slots=True)
class Referring:
    """Accuracy of the best box over expressions of one phrase with one region (`extras["grounding"]`).

    compat  "published" thresholds the generalised IoU and breaks ties by coordinates, as released; `iou` is not affected
    """

    name: ClassVar[str] = "referring"
    version: ClassVar[int] = 1
    needs: ClassVar[type | UnionType] = Grounder | Detector
    main: ClassVar[str] = "accuracy@0.5"

    compat: Literal["", "published"] = ""
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.compat not in ("", "published"):
            raise ConfigError(f"compat is {self.compat!r} (expected published, or nothing)")

    def predict(self, model: Grounder | Detector, data: Dataset) -> pa.Table:
        """Returns one row per sentence: iou is the mean over the boxes with the best score, at_0.5 and at_0.75 the fraction of
        them that reach the threshold, and top5 and top10 the probability that one of the first 5 or 10 does."""
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
                judged = self._scored(np.asarray(answer.box_N4, np.float64), np.asarray(answer.score_N, np.float64), region.box)
                rows.append({"uid": sample.uid, "group": group, "text": sentence.text} | judged)
        if not rows:
            raise DataError(
                f"'{data.name}' has no expression that means one region",
                field="grounding",
                expected='samples with extras["grounding"], sentences of one phrase and one region',
            )
        ties = "the box of the larger coordinates" if self.compat else "expected"
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self), ties=ties)

    def _scored(self, box_N4: Floats, score_N: Floats, target: Sequence[float]) -> dict[str, Any]:
        """Row of records for one expression: IoU, accuracy at each threshold and top-k hits of the predicted boxes."""
        iou_N = box_iou(box_N4, [target])[:, 0]
        share_N = generalised(box_N4, np.asarray(target, np.float64)) if self.compat else iou_N
        tied = int((score_N == score_N.max(initial=-np.inf)).sum())
        if self.compat:  # break ties by coordinates
            order = np.lexsort((*box_N4.T[::-1], score_N))[::-1]
            iou_N, share_N, score_N = iou_N[order], share_N[order], -np.arange(len(order), dtype=np.float64)
        best_N = score_N == score_N.max(initial=-np.inf)
        judged = {"tied": tied > 1, "iou": _mean(iou_N[best_N])}
        judged |= {f"at_{level}": _mean(share_N[best_N] >= level) for level in LEVELS}
        return judged | {f"top{depth}": _among(score_N, share_N >= LEVELS[0], depth) for depth in DEPTHS}

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        groups = records.column("group").to_pylist()
        means = Means(groups, draws=self.draws, seed=self.seed)
        columns = {f"accuracy@{level}": means.add(array(records, f"at_{level}")) for level in LEVELS}
        columns |= {name: means.add(array(records, name)) for name in ("iou", *(f"top{depth}" for depth in DEPTHS))}
        metrics = {name: means.metric(column) for name, column in columns.items()}
        notes = {**facts_of(records), "share_tied": float(array(records, "tied").mean())}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """[N, 1]"""
        column = metric.replace("accuracy@", "at_")
        if column not in records.column_names:
            return None
        return array(records, column).astype(np.float64)[:, None]


def generalised(box_N4: Floats, target_4: Floats) -> Floats:
    """Generalised IoU (Rezatofighi et al., 2019), [N]: IoU minus the uncovered fraction of the enclosing box. 0 / 0 counts as
    0."""
    low_N2, high_N2 = np.minimum(box_N4[:, :2], target_4[:2]), np.maximum(box_N4[:, 2:], target_4[2:])
    around_N = (high_N2 - low_N2).prod(1)
    side_N2 = np.minimum(box_N4[:, 2:], target_4[2:]) - np.maximum(box_N4[:, :2], target_4[:2])
    shared_N = side_N2.clip(0).prod(1)
    union_N = (box_N4[:, 2:] - box_N4[:, :2]).prod(1) + (target_4[2:] - target_4[:2]).prod() - shared_N
    iou_N = np.divide(shared_N, union_N, out=np.zeros_like(union_N), where=union_N > 0)
    share: Floats = iou_N - np.divide(around_N - union_N, around_N, out=np.zeros_like(union_N), where=around_N > 0)
    return share


def _among(score_N: Floats, good_N: npt.NDArray[np.bool_], depth: int) -> float:
    """Probability that a correct box is among the first `depth`, over random orders of tied boxes."""
    if not good_N.any():
        return 0.0
    best = score_N[good_N].max()
    numbers = [(score_N > best).sum(), (score_N == best).sum(), (good_N & (score_N == best)).sum()]
    above, tied, good = (np.array([number], np.int64) for number in numbers)
    return float(rk.hits(above, tied, good, depth, "expected", above)[0])


def _mean(value_N: npt.NDArray[Any]) -> float:
    return float(value_N.mean()) if len(value_N) else 0.0
