"""Arms on rendered rooms: classes of points after fine-tuning on few rooms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.anchored import anchored
from diptych.claims.training import opened, trained, untrained
from diptych.core.points.boxes_3d import SceneBoxes
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.points.room_clouds import point_labels
from diptych.models.io.saved_model import open_model
from diptych.recipes.points.chat3d_v2 import Chat3Dv2
from diptych.recipes.points.sg3d_vlp import SceneGraph3D
from diptych.recipes.points.text4point import Text4Point
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.segmentation import means, pixel_counts
from diptych.tasks.rooms.room_grounding import RoomGrounding
from diptych.worlds.rooms.layout import CLASSES
from diptych.worlds.rooms.world import rooms

UNLABELLED, LABELLED, TESTED, SMOKE_ROWS = 120, 5, 40, 4
DESCRIBED = 120
Cloud = npt.NDArray[Any]
POINTS = 1024
ANCHOR = "world:rooms?n=300&seed=9999&points=64"
"""The pictures and descriptions that the shared anchor learns: rooms of another seed than those of any cell."""


@dataclass(frozen=True)
class SegmentedRooms:
    """Fine-tunes on five labelled rooms of the cell's seed: "test" is the mIoU over all points of others.

    pretrained  recipe of the pre-training on rooms without labels; None fine-tunes a fresh network
    learns      False asks the model as it is before its first step
    """

    recipe: Text4Point
    pretrained: Text4Point | None = None
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        few = drawn(cell.seed, "train", SMOKE_ROWS if cell.smoke else LABELLED)
        recipe = anchored(self.recipe, cell)
        if not self.learns:
            return scores(untrained(recipe, few, cell).segment_points, cell)
        start = ""
        if self.pretrained is not None:
            many = drawn(cell.seed, "val", SMOKE_ROWS if cell.smoke else UNLABELLED)
            before = trained(anchored(self.pretrained, cell), many, replace(cell, rate=None, folder=cell.folder / "pretrained"))
            start = str(before.path)
        run = trained(recipe, few, replace(cell, folder=cell.folder / "tuned"), init=start)
        return scores(open_model(run.model).segment_points, cell)


@dataclass(frozen=True)
class GroundedRooms:
    """Finds things of other rooms by sentences. "multiple" is the accuracy at IoU .25 over things that are not the only ones of their
    class, "test" over all. Proposals are the boxes of the things.

    recipe      of the fine-tuning: the grounding head on rooms of the cell's seed
    pretrained  recipe of the pre-training on the same rooms; None fine-tunes a fresh network, for as many steps as both have together
    learns      False asks the model as it is before its first step
    """

    recipe: SceneGraph3D
    pretrained: SceneGraph3D | None = None
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = drawn(cell.seed, "train", SMOKE_ROWS if cell.smoke else DESCRIBED)
        if not self.learns:
            return grounded(untrained(self.recipe, rows, cell), cell)
        start = ""
        recipe = self.recipe
        if self.pretrained is not None:
            before = trained(self.pretrained, rows, replace(cell, folder=cell.folder / "pretrained"))
            start = str(before.path)
        run = trained(recipe, rows, replace(cell, folder=cell.folder / "tuned"), init=start)
        return grounded(open_model(run.model), cell)


@dataclass(frozen=True)
class ChattedRooms:
    """Finds things of other rooms by what a language model answers: accuracies as of `GroundedRooms`.

    learns  False asks the model as it is before its first step
    """

    recipe: Chat3Dv2
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = drawn(cell.seed, "train", SMOKE_ROWS if cell.smoke else DESCRIBED)
        return grounded((opened if self.learns else untrained)(anchored(self.recipe, cell), rows, cell), cell)


@dataclass(frozen=True)
class NamedThing:
    """Takes the things of a room whose "words" (class, colour and size) a sentence has most of, ties shared; or any thing ("chance")."""

    by: Literal["words", "chance"]

    def __call__(self, cell: Cell) -> Scores:
        return grounded(self, cell)

    def ground_room(self, sample: Sample, texts: Sequence[str]) -> list[SceneBoxes]:
        """Scores are the number of words that a sentence shares with the truth about each thing."""
        things = sample.extras["objects"]
        box_N6 = np.array([thing["box"] for thing in things])
        answers = []
        for text in texts:
            words_of_text = set(text.replace(",", "").split()) if self.by == "words" else set[str]()
            score_N = np.array([float(len(words_of_text & {t["label"], t["colour"], t["size"]})) for t in things])
            answers.append(SceneBoxes(box_N6, score_N, score_N == score_N.max()))
        return answers


@dataclass(frozen=True)
class NearestPoint:
    """Each point has the class of the nearest point of the labelled rooms: in "colour", or in height and colour ("height")."""

    by: Literal["colour", "height"]

    def __call__(self, cell: Cell) -> Scores:
        few = drawn(cell.seed, "train", SMOKE_ROWS if cell.smoke else LABELLED)
        labelled, classes = [], []
        for row in range(len(few)):
            cloud_PF = few[row].media["cloud"].decode()
            labelled.append(self.values(cloud_PF))
            classes.append(point_labels(few[row], len(cloud_PF), len(CLASSES)))
        labelled_QF, label_Q = torch.from_numpy(np.concatenate(labelled)), np.concatenate(classes)

        def nearest(clouds: list[Cloud]) -> list[Cloud]:
            return [label_Q[torch.cdist(torch.from_numpy(self.values(c)), labelled_QF).argmin(1).numpy()] for c in clouds]

        return scores(nearest, cell)

    def values(self, cloud_PF: Cloud) -> Cloud:
        """[P, 3] or [P, 4]."""
        colour_P3 = cloud_PF[:, 3:6] / 255
        return colour_P3 if self.by == "colour" else np.concatenate([cloud_PF[:, 2:3], colour_P3], 1)


@lru_cache(maxsize=4)
def drawn(seed: int, split: Literal["train", "val", "test"], count: int) -> Pool:
    """Rooms in memory, which a step then need not render."""
    return rooms(count, seed=seed, split=split, points=POINTS).to_pool()


def grounded(model: Any, cell: Cell) -> Scores:
    """Accuracies of a model over the rooms of the test."""
    test = drawn(cell.seed, "test", SMOKE_ROWS if cell.smoke else TESTED)
    metrics = evaluate(RoomGrounding(draws=2), model, test).metrics
    multiple = metrics.get("multiple/acc@0.25", metrics["acc@0.25"])
    return {"test": metrics["acc@0.25"].value, "multiple": multiple.value}


def scores(segment: object, cell: Cell) -> Scores:
    """mIoU of a function of clouds over the rooms of the test."""
    test = drawn(cell.seed, "test", SMOKE_ROWS if cell.smoke else TESTED)
    total_3K = np.zeros((3, len(CLASSES)), np.int64)
    for row in range(len(test)):
        cloud_PF = test[row].media["cloud"].decode()
        (predicted_P,) = segment([cloud_PF])  # type: ignore[operator]
        total_3K += pixel_counts(
            predicted_P, point_labels(test[row], len(cloud_PF), len(CLASSES)).astype(np.uint8), len(CLASSES), ""
        )
    return {"test": means(total_3K)["miou"], "accuracy": means(total_3K)["acc"]}
