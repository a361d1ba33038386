"""Findings at places in rendered chests, of which some pairs were never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.data.text.reports.finding_places import finding_matrix, finding_places
from diptych.tasks.grounding.phrase_maps import PhraseMaps
from diptych.worlds.chests.drawing import PATHOLOGIES, ZONES
from diptych.worlds.chests.world import HELD_OUT, ChestWorld
from diptych.worlds.rendered import RenderedDataset, rows_of

TESTED, MAPPED, SIDE = 500, 100, 16
Floats = npt.NDArray[np.floating[Any]]


def chests(cell: Cell, split: str, count: int) -> RenderedDataset:
    """Chests of 48 pixels; those of training have no pair of `HELD_OUT`."""
    world = ChestWorld(cell.seed, size=48, hold_out=True)
    return RenderedDataset("chests", world, rows_of(world, split, count))


@dataclass(frozen=True)
class PairedChests:
    """Trains on findings and places of `count` chests. Then, on other chests, the mean AUC of pairs that training never had ("held_out")
    and of the others ("seen"), each against all pictures without the pair, and the pointing game of pairs.

    learns  False asks the model as it is before the first step
    """

    recipe: Any
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        model = (opened if self.learns else untrained)(self.recipe, chests(cell, "train", self.count), cell)
        test = chests(cell, "test", TESTED)
        images = [sample.image for sample in (test[row] for row in range(TESTED))]
        pair_NAK = model.classify_pairs(images)
        order = np.ix_([model.places.index(zone) for zone in ZONES], [model.classes.index(name) for name in PATHOLOGIES])
        scores = auc_of_pairs(np.stack([pair_AK[order] for pair_AK in pair_NAK]), test)
        task = PhraseMaps(template="{label} in the {place}", draws=1)
        mapped = task.score(task.predict(model, chests(cell, "test", MAPPED)))
        return {**scores, "pointing": mapped.metrics["pointing"].value}


@dataclass(frozen=True)
class RidgePairs:
    """Raw input: ridge regression from 16 x 16 pixels to findings and to places; a pair has the product of both, each from 0 to 1."""

    count: int

    def __call__(self, cell: Cell) -> Scores:
        train, test = chests(cell, "train", self.count), chests(cell, "test", TESTED)
        target_NAK = truth_of(train)
        sides = []
        for axis in (1, 2):
            ridge = Ridge(alpha=10.0).fit(_small(train), target_NAK.any(axis).astype(np.float64))
            sides.append(np.clip(ridge.predict(_small(test)), 0, 1))
        finding_NK, place_NA = sides
        return auc_of_pairs(place_NA[:, :, None] * finding_NK[:, None], test)


def truth_of(data: RenderedDataset) -> npt.NDArray[np.bool_]:
    """bool [N, A, K]: pairs that are in each picture, denied or not."""
    return np.stack([finding_matrix(finding_places(data[row]), PATHOLOGIES, ZONES) == 1 for row in range(len(data))])


def auc_of_pairs(score_NAK: Floats, data: RenderedDataset) -> dict[str, float]:
    """Mean AUC over pairs that training never had, and over the others."""
    truth_NAK = truth_of(data)
    aucs: dict[str, list[float]] = {"held_out": [], "seen": []}
    for site, zone in enumerate(ZONES):
        for finding, pathology in enumerate(PATHOLOGIES):
            truth_N = truth_NAK[:, site, finding]
            if truth_N.any() and not truth_N.all():
                kind = "held_out" if (pathology, zone) in HELD_OUT else "seen"
                aucs[kind].append(float(roc_auc_score(truth_N, score_NAK[:, site, finding])))
    return {kind: float(np.mean(values)) if values else 0.5 for kind, values in aucs.items()}


def _small(data: RenderedDataset) -> Floats:
    from diptych.data.media.decode import decode
    from diptych.data.media.transforms import Preprocess

    shrink = Preprocess(SIDE, (0.0,) * 3, (1.0,) * 3, "squash", "bilinear")
    images = [decode(image) for row in range(len(data)) if (image := data[row].image) is not None]
    return np.asarray(shrink(images)[:, 0].flatten(1).numpy())
