"""Arms on rendered solids: zero-shot classes of point clouds of new shapes, and of new combinations of category and colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.image import ArrayImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.recipes.points.ulip import ULIP
from diptych.worlds.solids.world import COLOURS, NAMES, SolidWorld, solids

SOLIDS, TESTED, SMOKE_ROWS = 150, 300, 24
VIEWS, SIDE, POINTS = 4, 48, 256
COMPARED = 96
"""Points of each cloud between which Chamfer distances are taken."""
ANCHOR = f"world:solids?n=2000&seed=9999&size={SIDE}&points={POINTS}&turned=true"
"""The pictures and captions that the shared anchor learns: solids of another seed than those of any cell."""


@dataclass(frozen=True)
class NamedSolids:
    """Trains on solids of the cell's seed and names others by the nearest text. "test" is the accuracy on new shapes, "unseen" on new
    combinations of category and colour.

    learns  False asks the model as it is before its first step
    """

    recipe: ULIP
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = rendered(cell.seed, SMOKE_ROWS if cell.smoke else SOLIDS)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        text_KD = model.embed_texts([f"a {name}" for name in NAMES])
        scores = {}
        for split in ("test", "unseen"):
            cloud_NPF, label_N = clouds(cell.seed, split, SMOKE_ROWS if cell.smoke else TESTED)
            scores[split] = float(np.mean((model.embed_points(list(cloud_NPF)) @ text_KD.T).argmax(1) == label_N))
        return scores


@dataclass(frozen=True)
class NearestSolid:
    """The label of the nearest training cloud: by "chamfer" distance between points, or by the histogram of "colour"."""

    by: Literal["chamfer", "colour"]

    def __call__(self, cell: Cell) -> Scores:
        train_NPF, label_N = clouds(cell.seed, "train", SMOKE_ROWS if cell.smoke else SOLIDS)
        scores = {}
        for split in ("test", "unseen"):
            test_MPF, true_M = clouds(cell.seed, split, SMOKE_ROWS if cell.smoke else TESTED)
            distance_MN = chamfer(test_MPF, train_NPF) if self.by == "chamfer" else histogram_distance(test_MPF, train_NPF)
            scores[split] = float(np.mean(label_N[distance_MN.argmin(1)] == true_M))
        return scores


@lru_cache(maxsize=2)
def rendered(seed: int, count: int) -> Pool:
    """Training solids with their views in memory, which a step then need not render."""

    def kept(sample: Sample) -> Sample:
        parts = tuple(ArrayImage(decode(part), part.name) for part in sample.media["views"].parts)
        return replace(sample, image=parts[0], media={"cloud": sample.media["cloud"], "views": MediaItem("images", parts)})

    data = solids(count, seed=seed, points=POINTS, views=VIEWS, size=SIDE, turned=True)
    return Pool.from_samples((kept(data[row]) for row in range(count)), name=data.name)


def clouds(seed: int, split: str, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Clouds [count, POINTS, 6] with colours of 0..255, and the numbers of their categories [count]."""
    world = SolidWorld(seed, POINTS, VIEWS, SIDE, turned=True)
    surfaces = [world.surface(split, index, POINTS) for index in range(count)]
    cloud_NPF = np.stack([np.concatenate([xyz, colour], 1) for xyz, _, colour in surfaces]).astype(np.float32)
    return cloud_NPF, np.array([NAMES.index(world.solid(split, index).category) for index in range(count)])


def chamfer(test_MPF: npt.NDArray[np.float32], train_NPF: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[M, N]: mean distance from each point to the nearest of the other cloud, both ways added, of `COMPARED` points of each."""
    train_NP3 = torch.from_numpy(train_NPF[:, :COMPARED, :3].copy())
    rows = []
    for cloud_PF in test_MPF:
        distance_NPP = torch.cdist(torch.from_numpy(cloud_PF[:COMPARED, :3].copy()), train_NP3)
        rows.append(distance_NPP.amin(2).mean(1) + distance_NPP.amin(1).mean(1))
    distance_MN: npt.NDArray[np.float32] = torch.stack(rows).numpy()
    return distance_MN


def histogram_distance(test_MPF: npt.NDArray[np.float32], train_NPF: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[M, N]: L1 distance between the shares of the world's colours."""
    palette_K3 = np.array(list(COLOURS.values()), np.float32)
    test_MK, train_NK = ((cloud_NPF[..., None, 3:] == palette_K3).all(-1).mean(1) for cloud_NPF in (test_MPF, train_NPF))
    distance_MN: npt.NDArray[np.float32] = np.abs(test_MK[:, None] - train_NK[None]).sum(-1).astype(np.float32)
    return distance_MN
