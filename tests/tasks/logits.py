"""A relation detector whose logits are planted, image by image, and the made-up case that the released scorers were run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diptych.core.image import ImageSource
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.graphs.label_lists import LabelLists
from diptych.models.rlipv2.graph_detector import GraphDetector
from diptych.models.rlipv2.relation_detector import PairSet

Floats = npt.NDArray[np.float32]


class LogitDetector(GraphDetector):
    """Everything behind the network is the real thing; what the network says of image n (its name) was planted."""

    name = "logits"

    def __init__(self, planted: Planted) -> None:
        self.planted = planted
        self.asked: list[LabelLists] = []

    def _in_batches(self, images: Sequence[ImageSource], batch_size: int, work: Callable[[Any, Any], Any]) -> list[Any]:
        blocks = []
        for start in range(0, len(images), batch_size):
            rows = [int(image.name) for image in images[start : start + batch_size]]
            blocks.append(work(rows, [tuple(self.planted.size_N2[row].tolist()) for row in rows]))
        return blocks

    def _predicted(self, images: Any, lists: LabelLists, given: Any = None) -> PairSet:
        self.asked.append(lists)
        subject, thing, relation = (
            torch.from_numpy(logits[images])[:, None]
            for logits in (self.planted.subject_NQC, self.planted.object_NQC, self.planted.relation_NQR)
        )
        box = torch.from_numpy(self.planted.box_NQ24[images])[:, None]
        return PairSet(box[:, :, :, 0], box[:, :, :, 1], subject, thing, relation, torch.zeros(relation.shape[-1], 1))


@dataclass
class Planted:
    """size_N2: (height, width) of images; logits of Q queries, the background last; box_NQ24: cxcywh of subject and object in 0..1."""

    size_N2: npt.NDArray[np.int64]
    subject_NQC: Floats
    object_NQC: Floats
    relation_NQR: Floats
    box_NQ24: Floats


def planted(
    classes: Sequence[tuple[int, int, int]], objects: int, relations: int, *, seed: int, images: int = 8, queries: int = 24
) -> tuple[list[list[tuple[int, int, int]]], npt.NDArray[np.float64], Planted]:
    """Three true pairs an image, of these (subject, relation, object) classes, with their boxes in cxcywh [N, 3, 2, 4]; and answers around
    them, some close and some off, some with objects without width. `RandomState` draws the same numbers under every numpy."""
    rng = np.random.RandomState(seed)
    size = rng.randint(200, 500, (images, 2))
    kind = rng.randint(0, len(classes), (images, 3))
    subject, relation, thing = (np.array(column) for column in zip(*classes, strict=True))
    centre, side = rng.uniform(0.3, 0.7, (images, 3, 2, 2)), rng.uniform(0.1, 0.5, (images, 3, 2, 2))
    truth = np.concatenate([centre, side], -1)
    pair, row = rng.randint(0, 3, (images, queries)), np.arange(images)[:, None]
    shift = rng.normal(0, 1, (images, queries, 2, 4))
    box = (truth[row, pair] + shift * np.where(rng.rand(images, queries, 1, 1) < 0.5, 0.006, 0.06)).clip(0, 1)
    box[:, ::7, 1, 2] = 0
    said = [
        rng.normal(mean, 1, (images, queries, count)) for mean, count in ((0, objects + 1), (0, objects + 1), (-2, relations))
    ]
    strength = ((2.5, 1), (2, 1.5), (0, 1))
    for logits, of_class, (mean, spread) in zip(said, (subject, thing, relation), strength, strict=True):
        true = of_class[kind[row, pair]][..., None]
        np.put_along_axis(logits, true, rng.normal(mean, spread, (images, queries, 1)), 2)
    named = [[classes[k] for k in kinds] for kinds in kind.tolist()]
    return named, truth, Planted(size, *(part.astype(np.float32) for part in (*said, box)))


def true_graphs(
    named: Sequence[Sequence[tuple[int, int, int]]],
    truth: npt.NDArray[np.float64],
    size_N2: npt.NDArray[np.int64],
    objects: Sequence[str],
    relations: Sequence[str],
) -> list[SceneGraph]:
    """A region for each end of each pair; an object number behind the last is none: the relation points at its subject."""
    graphs = []
    for pairs, box_324, (height, width) in zip(named, truth, size_N2, strict=True):
        box_324 = box_324 * [width, height, width, height]
        corner = np.concatenate([box_324[..., :2] - box_324[..., 2:] / 2, box_324[..., :2] + box_324[..., 2:] / 2], -1)
        regions, edges = [], []
        for (subject, relation, thing), ends in zip(pairs, corner.tolist(), strict=True):
            at = len(regions)
            regions.append(Region(tuple(ends[0]), objects[subject]))
            if there := thing < len(objects):
                regions.append(Region(tuple(ends[1]), objects[thing]))
            edges.append(Relation(at, relations[relation], at + there))
        graphs.append(SceneGraph(tuple(regions), tuple(edges)))
    return graphs
