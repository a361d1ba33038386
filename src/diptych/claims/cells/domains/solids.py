"""Arms on rendered solids: zero-shot classes of point clouds of new shapes, and of new combinations of category and colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.anchored import anchored
from diptych.claims.training import opened, untrained
from diptych.core.image import ArrayImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.curate.operators.view_captions import rank_captions
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.text.captions.view_captions import VIEW_CAPTIONS, view_captions
from diptych.models.io.open_address import open_address
from diptych.recipes.points.ulip import ULIP
from diptych.recipes.points.ulip2 import ULIP2
from diptych.worlds.solids.world import COLOURS, NAMES, SolidWorld, solids

SOLIDS, TESTED, SMOKE_ROWS = 150, 300, 24
VIEWS, SIDE, POINTS = 4, 48, 256
Labels = npt.NDArray[np.int64]
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
        model = (opened if self.learns else untrained)(anchored(self.recipe, cell), rows, cell)
        text_KD = model.embed_texts([f"a {name}" for name in NAMES])
        scores = {}
        for split in ("test", "unseen"):
            cloud_NPF, label_N = clouds(cell.seed, split, SMOKE_ROWS if cell.smoke else TESTED)
            scores[split] = float(np.mean((model.embed_points(list(cloud_NPF)) @ text_KD.T).argmax(1) == label_N))
        return scores


@dataclass(frozen=True)
class ColouredSolids:
    """Trains on solids of the cell's seed and names colour and category of others by the nearest of all 200 pairs, "a red table". "test"
    is the share of new shapes with both right, "unseen" that of new combinations; "test/colour" and "test/category" are one of both.

    ranked  captions of views are ranked by the frozen model first, and `recipe.top` of each view are used; False keeps them as written
    learns  False asks the model as it is before its first step
    """

    recipe: ULIP2
    ranked: bool = True
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = captioned(cell.seed, SMOKE_ROWS if cell.smoke else SOLIDS)
        recipe = anchored(self.recipe, cell)
        if recipe.names == "views" and self.ranked:
            recipe = recipe.prepare(rows)
            rows = ranked_captions(rows, recipe.weights, recipe.top)
        model = (opened if self.learns else untrained)(recipe, rows, cell)
        text_KD = model.embed_texts([f"a {colour} {name}" for name in NAMES for colour in COLOURS])
        scores: dict[str, float] = {}
        for split in ("test", "unseen"):
            cloud_NPF, label_N = clouds(cell.seed, split, SMOKE_ROWS if cell.smoke else TESTED)
            colour_N = main_colours(cell.seed, split, len(label_N))
            best_N = (model.embed_points(list(cloud_NPF)) @ text_KD.T).argmax(1)
            scores |= pair_scores(split, best_N // len(COLOURS), best_N % len(COLOURS), label_N, colour_N)
        return scores


@dataclass(frozen=True)
class NearestColouredSolid:
    """Colour and category of the nearest training cloud: by "chamfer" distance, or by the histogram of "colour"."""

    by: Literal["chamfer", "colour"]

    def __call__(self, cell: Cell) -> Scores:
        train_NPF, label_N = clouds(cell.seed, "train", SMOKE_ROWS if cell.smoke else SOLIDS)
        colour_N = main_colours(cell.seed, "train", len(label_N))
        scores: dict[str, float] = {}
        for split in ("test", "unseen"):
            test_MPF, true_M = clouds(cell.seed, split, SMOKE_ROWS if cell.smoke else TESTED)
            distance_MN = chamfer(test_MPF, train_NPF) if self.by == "chamfer" else histogram_distance(test_MPF, train_NPF)
            nearest_M = distance_MN.argmin(1)
            true_colour_M = main_colours(cell.seed, split, len(true_M))
            scores |= pair_scores(split, label_N[nearest_M], colour_N[nearest_M], true_M, true_colour_M)
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


def pair_scores(split: str, label_N: Labels, colour_N: Labels, true_N: Labels, true_colour_N: Labels) -> Scores:
    """Shares of right pairs, colours and categories of a split."""
    category_N, shade_N = label_N == true_N, colour_N == true_colour_N
    both = float(np.mean(category_N & shade_N))
    return {split: both, f"{split}/colour": float(shade_N.mean()), f"{split}/category": float(category_N.mean())}


@lru_cache(maxsize=2)
def captioned(seed: int, count: int) -> Pool:
    """The rows of `rendered` with four captions of each view by templates, a share of them wrong."""
    world = SolidWorld(seed, POINTS, VIEWS, SIDE, turned=True, captions=4)
    data = rendered(seed, count)
    samples = (
        replace(data[row], extras={**data[row].extras, VIEW_CAPTIONS: world.view_captions("train", row)}) for row in range(count)
    )
    return Pool.from_samples(samples, name=f"{data.name} captioned")


def ranked_captions(rows: Pool, address: str, top: int) -> Pool:
    """The rows with the `top` captions of each view that the model at an address finds most similar to the view."""
    model, samples = open_address(address), []
    for row in range(len(rows)):
        sample = rows[row]
        kept = [
            {"view": view, "string": text, "similarity": cosine}
            for view, texts in view_captions(sample).items()
            for text, cosine in rank_captions(model, sample.media["views"].parts[view], list(dict.fromkeys(texts)))[:top]
        ]
        samples.append(replace(sample, extras={**sample.extras, VIEW_CAPTIONS: kept}))
    return Pool.from_samples(samples, name=f"{rows.name} ranked")


def main_colours(seed: int, split: str, count: int) -> Labels:
    """Places of the main colours of solids in `COLOURS`, [count]."""
    world = SolidWorld(seed, POINTS, VIEWS, SIDE, turned=True)
    return np.array([list(COLOURS).index(world.solid(split, index).colour) for index in range(count)])


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
