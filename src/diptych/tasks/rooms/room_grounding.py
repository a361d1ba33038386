"""Which things of a room a sentence means.  Protocols `room_grounding` and `room_multi_grounding`, version 1.

`room_grounding` (ScanRefer, 1912.08830): the box with the best score is right where its IoU with the true one is at least .25, or .5;
beside the mean over all sentences those over "unique" things, the only ones of their class in the room, and "multiple" ones. A model that
gives no box is wrong. Chat-Scene's released scorer takes object 0 for an answer that it cannot read, which may be right by chance: here it
is wrong.

`room_multi_grounding` (Multi3DRefer, 2309.05251): F1 of the chosen boxes, matched one to one for the largest sum of IoUs; a sentence that
means nothing scores 1 for no box and 0 for any. Means by kind: no, one or several things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import linear_sum_assignment

from diptych.core.contracts import Dataset, RoomGrounder
from diptych.core.errors import DataError
from diptych.core.points.boxes_3d import SceneBoxes, box_iou_3d
from diptych.core.result import Result
from diptych.core.terminal.progress import with_bar
from diptych.data.points.room_language import RoomDescription, room_descriptions, room_objects
from diptych.tasks._scoring.means import Means
from diptych.tasks._scoring.records import array, facts_of, with_facts

LEVELS = (0.25, 0.5)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoomGrounding:
    """Accuracy of the best box at IoU .25 and .5 over descriptions that mean one thing."""

    name: ClassVar[str] = "room_grounding"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = RoomGrounder
    main: ClassVar[str] = "acc@0.25"

    draws: int = 2000
    seed: int = 0

    def predict(self, model: RoomGrounder, data: Dataset) -> pa.Table:
        """One row a sentence: `iou` of the best box, the mean over those that share the best score, and `share_` of these at each level."""

        def judged(answer: SceneBoxes, one: RoomDescription, true_N6: Floats) -> dict[str, Any]:
            best_N = answer.score_N == answer.score_N.max(initial=-np.inf)
            iou_N = box_iou_3d(answer.box_N6[best_N], true_N6)[:, 0] if best_N.any() else np.zeros(1)
            return {"iou": float(iou_N.mean()), **{f"at_{level}": float((iou_N >= level).mean()) for level in LEVELS}}

        rows = grounded_rows(model, data, lambda one: len(one.object_ids) == 1, judged)
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self), ties="mean of equal scores")

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        groups, unique_N = records.column("group").to_pylist(), array(records, "unique").astype(bool)
        means = Means(groups, draws=self.draws, seed=self.seed)
        columns = {}
        for level in LEVELS:
            value_N = array(records, f"at_{level}").astype(np.float64)
            for kind, kept_N in (("", np.ones(len(value_N), bool)), ("unique/", unique_N), ("multiple/", ~unique_N)):
                if kept_N.any():
                    columns[f"{kind}acc@{level}"] = means.add(np.where(kept_N, value_N, np.nan))
        columns["iou"] = means.add(array(records, "iou"))
        metrics = {name: means.metric(column) for name, column in columns.items()}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=dict(facts_of(records)))

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, 1]"""
        column = metric.replace("acc@", "at_")
        return array(records, column).astype(np.float64)[:, None] if column in records.column_names else None


@dataclass(frozen=True, slots=True)
class RoomMultiGrounding:
    """F1 of the chosen boxes at IoU .25 and .5 over descriptions that mean none, one or several things."""

    name: ClassVar[str] = "room_multi_grounding"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = RoomGrounder
    main: ClassVar[str] = "f1@0.5"

    draws: int = 2000
    seed: int = 0

    def predict(self, model: RoomGrounder, data: Dataset) -> pa.Table:
        """Returns one row per sentence with its F1 at each level."""

        def judged(answer: SceneBoxes, one: RoomDescription, true_N6: Floats) -> dict[str, Any]:
            chosen_N6 = answer.box_N6[answer.chosen_N]
            kind = ("no thing", "one thing")[len(true_N6)] if len(true_N6) < 2 else "several things"
            return {"kind": kind, **{f"f1_{level}": matched_f1(chosen_N6, true_N6, level) for level in LEVELS}}

        rows = grounded_rows(model, data, lambda one: True, judged)
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        groups, kinds = records.column("group").to_pylist(), np.array(records.column("kind").to_pylist())
        means = Means(groups, draws=self.draws, seed=self.seed)
        columns = {}
        for level in LEVELS:
            value_N = array(records, f"f1_{level}").astype(np.float64)
            columns[f"f1@{level}"] = means.add(value_N)
            for kind in sorted(set(kinds.tolist())):
                columns[f"{kind}/f1@{level}"] = means.add(np.where(kinds == kind, value_N, np.nan))
        metrics = {name: means.metric(column) for name, column in columns.items()}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=dict(facts_of(records)))

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, 1]"""
        column = metric.replace("f1@", "f1_")
        return array(records, column).astype(np.float64)[:, None] if column in records.column_names else None


def matched_f1(predicted_N6: npt.ArrayLike, true_M6: npt.ArrayLike, level: float) -> float:
    """F1 of boxes at an IoU, after the one-to-one matching with the largest sum of IoUs; 1 where both are empty.

    >>> matched_f1([], [], 0.5), matched_f1([[0, 0, 0, 1, 1, 1]], [], 0.5)
    (1.0, 0.0)
    """
    iou_NM = box_iou_3d(predicted_N6, true_M6)
    total = sum(iou_NM.shape)
    if not total:
        return 1.0
    row, column = linear_sum_assignment(-iou_NM)
    return float(2 * (iou_NM[row, column] >= level).sum() / total)


def grounded_rows(
    model: RoomGrounder,
    data: Dataset,
    counts: Callable[[RoomDescription], bool],
    judged: Callable[[SceneBoxes, RoomDescription, Floats], dict[str, Any]],
) -> list[dict[str, Any]]:
    """A row for each description that counts, from the model's boxes and those of the things that are meant."""
    rows: list[dict[str, Any]] = []
    for number in with_bar(range(len(data)), len(data), "grounding", least=4):
        sample = data[number]
        box_of = {thing.id: thing.box for thing in room_objects(sample)}
        asked = [one for one in room_descriptions(sample) if counts(one)]
        if not asked:
            continue
        for one, answer in zip(asked, model.ground_room(sample, [one.text for one in asked]), strict=True):
            true_N6 = np.array([box_of[k] for k in one.object_ids], np.float64).reshape(-1, 6)
            facts = {"uid": sample.uid, "group": sample.group or sample.uid, "text": one.text, "unique": one.unique}
            rows.append(facts | judged(answer, one, true_N6))
    if not rows:
        raise DataError(f"'{data.name}' has no descriptions of things", field="descriptions", expected="rooms with descriptions")
    return rows
