"""Controls on rendered rooms that learn nothing: the nearest training cloud, by Chamfer distance or by a histogram of colours.

Letters: P, Q points of two clouds, N clouds, K classes or bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.domains.rooms import DESCRIBED, LABELLED, SMOKE_ROWS, drawn, grounded, scores
from diptych.core.points.boxes_3d import SceneBoxes
from diptych.core.sample import Sample
from diptych.data.points.room_clouds import POINT_LABELS

Cloud = npt.NDArray[np.float32]
By = Literal["chamfer", "colour"]
COMPARED = 256
"""Points of a cloud that a Chamfer distance takes."""
BINS = 4
"""Of each of three colours in a histogram."""


@dataclass(frozen=True)
class NearestLabelledRoom:
    """Each point has the class of the nearest point, in space, of the labelled room whose cloud is nearest to that of the room."""

    by: By

    def __call__(self, cell: Cell) -> Scores:
        few = drawn(cell.seed, "train", SMOKE_ROWS if cell.smoke else LABELLED)
        labelled = [(few[row].media["cloud"].decode(), labels(few[row])[:, 0]) for row in range(len(few))]

        def nearest(clouds: list[Cloud]) -> list[npt.NDArray[Any]]:
            answers = []
            for cloud_P6 in clouds:
                other_Q6, label_Q = labelled[int(np.argmin([distance(cloud_P6, other_Q6, self.by) for other_Q6, _ in labelled]))]
                near_PQ = torch.cdist(torch.from_numpy(centred(cloud_P6)), torch.from_numpy(centred(other_Q6)))
                answers.append(label_Q[near_PQ.argmin(1).numpy()])
            return answers

        return scores(nearest, cell)


@dataclass(frozen=True)
class NearestDescribedThing:
    """Takes the thing of a room whose cloud is nearest to that of the training thing with the most similar description, the one that has
    most words in common with the sentence."""

    by: By

    def __call__(self, cell: Cell) -> Scores:
        rows = drawn(cell.seed, "train", SMOKE_ROWS if cell.smoke else DESCRIBED)
        things: list[tuple[frozenset[str], Cloud]] = []
        for row in range(len(rows)):
            cloud_by_id = thing_clouds(rows[row])
            for described in rows[row].extras["descriptions"]:
                if described["object_id"] in cloud_by_id:
                    things.append((words(described["description"]), cloud_by_id[described["object_id"]]))
        return grounded(_Grounder(self.by, things), cell)


@dataclass(frozen=True)
class _Grounder:
    by: By
    things: list[tuple[frozenset[str], Cloud]]

    def ground_room(self, sample: Sample, texts: Sequence[str]) -> list[SceneBoxes]:
        objects, cloud_by_id = sample.extras["objects"], thing_clouds(sample)
        box_N6 = np.array([thing["box"] for thing in objects])
        answers = []
        for text in texts:
            asked = words(text)
            _, like_P6 = max(self.things, key=lambda thing: len(asked & thing[0]) / len(asked | thing[0]))
            score_N = np.array(
                [-distance(like_P6, cloud_by_id[o["id"]], self.by) if o["id"] in cloud_by_id else -np.inf for o in objects]
            )
            answers.append(SceneBoxes(box_N6, score_N, score_N == score_N.max()))
        return answers


def distance(one_P6: Cloud, other_Q6: Cloud, by: By) -> float:
    """Distance of two clouds: "chamfer", the mean distance of each point to the nearest of the other cloud, both ways added, with both
    clouds around their means; or "colour", the L1 distance of their histograms of colours.
    """
    if by == "colour":
        return float(np.abs(histogram(one_P6) - histogram(other_Q6)).sum())
    one_P3, other_Q3 = (torch.from_numpy(centred(cloud)[:COMPARED]) for cloud in (one_P6, other_Q6))
    near_PQ = torch.cdist(one_P3, other_Q3)
    return float(near_PQ.amin(1).mean() + near_PQ.amin(0).mean())


def centred(cloud_P6: Cloud) -> Cloud:
    """Coordinates [P, 3] around their mean."""
    xyz_P3: Cloud = cloud_P6[:, :3] - cloud_P6[:, :3].mean(0)
    return xyz_P3


def histogram(cloud_P6: Cloud) -> npt.NDArray[np.float64]:
    """Shares of points [BINS ** 3] by colours of 0..255."""
    bin_P3 = (cloud_P6[:, 3:6] * BINS / 256).astype(np.int64).clip(0, BINS - 1)
    return np.bincount(bin_P3 @ [BINS * BINS, BINS, 1], minlength=BINS**3) / len(cloud_P6)


def thing_clouds(sample: Sample) -> dict[int, Cloud]:
    """Points [P, 6] of each thing of a room by its id; a thing without points is left out."""
    cloud_PF, label_P2 = sample.media["cloud"].decode(), labels(sample)
    return {int(number): cloud_PF[label_P2[:, 1] == number] for number in np.unique(label_P2[:, 1]) if number >= 0}


def labels(sample: Sample) -> npt.NDArray[Any]:
    """Class and id of the thing of every point [P, 2]; the id is -1 where a point is of none."""
    band = np.asarray(sample.media[POINT_LABELS].decode())
    return band.reshape(len(band), -1)[:, :2]


def words(text: str) -> frozenset[str]:
    return frozenset(text.lower().replace(",", " ").replace(".", " ").split())
