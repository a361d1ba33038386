"""Things of rooms with their classes: mean average precision at IoU .25 and .5.  Protocol `room_detection`, version 1.

As VoteNet's released evaluation (1904.09664): of each class all boxes of all rooms in order of their scores; each takes the true box of
its room that it overlaps most and is right where the IoU is above the level and that box is not taken yet; AP is the area under the
precision that does not rise. The mean is over classes that occur.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, RoomDetector
from diptych.core.errors import DataError
from diptych.core.points.boxes_3d import box_iou_3d
from diptych.core.result import Metric, Result
from diptych.core.terminal.progress import with_bar
from diptych.data.points.room_language import room_objects
from diptych.tasks._scoring.records import facts_of, with_facts

LEVELS = (0.25, 0.5)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoomDetection:
    """Mean average precision at IoU .25 and .5."""

    name: ClassVar[str] = "room_detection"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = RoomDetector
    main: ClassVar[str] = "map@0.5"

    def predict(self, model: RoomDetector, data: Dataset) -> pa.Table:
        """Returns one row per room: true and predicted boxes, labels and scores."""
        rows: list[dict[str, Any]] = []
        for number in with_bar(range(len(data)), len(data), "detecting", least=4):
            sample = data[number]
            answer, things = model.detect_room(sample), room_objects(sample)
            rows.append(
                {
                    "uid": sample.uid,
                    "group": sample.group or sample.uid,
                    "true_boxes": [list(thing.box) for thing in things],
                    "true_labels": [thing.label for thing in things],
                    "boxes": answer.box_N6.tolist(),
                    "labels": list(answer.labels),
                    "scores": answer.score_N.tolist(),
                }
            )
        if not any(row["true_boxes"] for row in rows):
            raise DataError(f"'{data.name}' has no objects", field="objects", expected="rooms with objects")
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        rows = records.to_pylist()
        classes = sorted({label for row in rows for label in row["true_labels"]})
        metrics, notes = {}, dict(facts_of(records))
        for level in LEVELS:
            each = {name: average_precision(rows, name, level) for name in classes}
            metrics[f"map@{level}"] = Metric(float(np.mean(list(each.values()))))
            notes[f"ap@{level}"] = each
        return Result(self.name, self.version, self.main, metrics, len(records), len({row["group"] for row in rows}), notes=notes)


def average_precision(rows: list[dict[str, Any]], name: str, level: float) -> float:
    """AP of one class over the rows of `RoomDetection.predict`."""
    true = [[box for box, label in zip(r["true_boxes"], r["true_labels"], strict=True) if label == name] for r in rows]
    detections = [
        (score, room, box)
        for room, r in enumerate(rows)
        for box, label, score in zip(r["boxes"], r["labels"], r["scores"], strict=True)
        if label == name
    ]
    detections.sort(key=lambda one: -one[0])
    taken = [np.zeros(len(boxes), bool) for boxes in true]
    right = np.zeros(len(detections))
    for number, (_, room, box) in enumerate(detections):
        if not true[room]:
            continue
        iou_N = box_iou_3d([box], true[room])[0]
        best = int(iou_N.argmax())
        if iou_N[best] > level and not taken[room][best]:
            right[number], taken[room][best] = 1.0, True
    return area_under_precision(right, sum(map(len, true)))


def area_under_precision(right_N: Floats, positives: int) -> float:
    """Area under the precision, made not to rise with recall, of hits in order of their scores.

    >>> area_under_precision(np.array([1.0, 0.0, 1.0]), 2)
    0.8333333333333333
    """
    if not len(right_N) or not positives:
        return 0.0
    hits_N = np.cumsum(right_N)
    recall_N = np.concatenate([[0.0], hits_N / positives, [1.0]])
    precision_N = np.concatenate([[0.0], hits_N / np.arange(1, len(right_N) + 1), [0.0]])
    precision_N = np.maximum.accumulate(precision_N[::-1])[::-1]
    return float((np.diff(recall_N) * precision_N[1:]).sum())
