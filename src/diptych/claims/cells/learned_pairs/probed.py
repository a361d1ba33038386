"""Arms on small rendered pictures with a class: how much of it a linear probe reads off frozen vectors, and retrieval beside it.

The vectors are those of the image tower, before the projection into the space of the texts, as published probes have them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import ELSEWHERE, clean_rows, drawn, retrieved
from diptych.claims.training import opened, untrained
from diptych.core.contracts import Embedder
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.models.pairs.embedder import PairEmbedder
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks.pairs.linear_probe import LinearProbe
from diptych.worlds.small_pairs import SmallPairs

PROBED, SMOKE_PROBED, SMOKE_STEPS = 1500, 128, 6


@dataclass(frozen=True)
class Probed:
    """Trains on so many pictures; "probe" is the accuracy of a logistic regression on fresh ones, 24 classes (the first thing's noun).

    labelled  share of the training pictures whose label the recipe reads
    change    is done to every sample, of training and of retrieval; the probe sees no texts
    learns    False probes the model as it is before the first step
    """

    recipe: PairRecipe
    pairs: SmallPairs
    labelled: float = 0.0
    change: Callable[[Sample], Sample] | None = None
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows, test = drawn(self.pairs, cell), clean_rows(cell)
        if self.change is not None:
            rows, test = (_changed(pool, self.change) for pool in (rows, test))
        cell.spending.count(labelled=round(self.labelled * len(rows)))
        model = opened(self.recipe, rows, cell, smoke_steps=SMOKE_STEPS) if self.learns else untrained(self.recipe, rows, cell)
        recalls = retrieved(model, test)
        return {"probe": probed(backbone(model), cell, test), "i2t_r@1": recalls["i2t_r@1"], "t2i_r@1": recalls["t2i_r@1"]}


def backbone(model: PairEmbedder) -> PairEmbedder:
    """The same embedder with image vectors as the tower gives them, of unit norm."""
    bare = copy.deepcopy(model.model)
    bare.image_projection = nn.Identity()
    return PairEmbedder(bare, model.preprocess, model.tokenizer, model.text_length, f"{model.name}, before its projection")


def _changed(pool: Pool, change: Callable[[Sample], Sample]) -> Pool:
    return Pool.from_samples((change(pool[row]) for row in range(len(pool))), name=pool.name)


@dataclass(frozen=True)
class RawPixels:
    """The same probe on the pictures themselves, shrunk to `side` pixels: what a metric gives without any model."""

    side: int = 12

    def __call__(self, cell: Cell) -> Scores:
        return {"probe": probed(Pixels(self.side), cell, clean_rows(cell))}


@dataclass(frozen=True)
class Pixels:
    """An `Embedder` whose image vectors are pixels of unit norm. It has nothing to say about texts."""

    side: int
    name: str = "pixels"
    fingerprint: str = "pixels"

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        small = [
            np.asarray(Image.fromarray(image.pixels_HWC).resize((self.side, self.side), Image.Resampling.BOX)) for image in images
        ]
        flat_ND = np.stack(small).reshape(len(small), -1).astype(np.float32)
        unit_ND: npt.NDArray[np.float32] = flat_ND / np.linalg.norm(flat_ND, axis=1, keepdims=True).clip(1e-6)
        return unit_ND

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> npt.NDArray[np.float32]:
        return np.full((len(texts), self.side**2 * 3), (self.side**2 * 3) ** -0.5, np.float32)


def probed(model: Embedder, cell: Cell, test: Pool) -> float:
    """Accuracy of a logistic regression on the vectors of pictures that nobody trained on."""
    labelled = SmallPairs(SMOKE_PROBED if cell.smoke else PROBED).pool("train", cell.seed + ELSEWHERE)
    if cell.smoke:
        test = SmallPairs(SMOKE_PROBED).pool("test", cell.seed)
    probe = LinearProbe(label="label", train=labelled, draws=1)
    return probe.score(probe.predict(model, test)).metrics["acc@1"].value
