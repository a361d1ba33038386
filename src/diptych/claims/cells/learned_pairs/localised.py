"""Arms on small rendered pairs: do the patches of a phrase lie on what it names, and not on the other thing of the picture?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import clean_rows, drawn, retrieved
from diptych.claims.training import opened, untrained
from diptych.core.contracts import TokenEmbedder, Unit
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.late.embedder import LateEmbedder
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks.pairs.localisation import Localisation
from diptych.worlds.small_pairs import SmallPairs


@dataclass(frozen=True)
class Localised:
    """Trains on texts that name the two things of a picture, without their places; then asks for each thing on fresh pictures.

    "among" is how often a patch on the thing weighs more than one on the other thing, "pointing" how often the best patch lies on it. A
    model without tokens of its own is asked by those of its towers, projected as its vectors are.
    """

    recipe: PairRecipe
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = without_places(drawn(SmallPairs(self.count, captioned=True, wrong=0.0), cell), "train")
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        recalls = retrieved(model, test := tested(cell))
        return {**localised(by_tokens(model), test), "test/i2t_r@1": recalls["i2t_r@1"], "test/t2i_r@1": recalls["t2i_r@1"]}


@dataclass(frozen=True)
class WhatStandsOut:
    """The same weight for every phrase: how far a patch's mean colour is from the picture's."""

    side: int

    def __call__(self, cell: Cell) -> Scores:
        return localised(StandsOut(self.side), tested(cell))


@dataclass(frozen=True)
class StandsOut:
    """A `TokenEmbedder` whose patches lie nearer to every word the more they stand out."""

    side: int
    name: str = "stands out"
    fingerprint: str = "stands out"

    def embed_patches(self, images: Sequence[ImageSource]) -> list[Unit]:
        return [self._patches(decode(image, exact=True).astype(np.float32)) for image in images]

    def embed_words(self, texts: Sequence[str]) -> list[Unit]:
        return [np.array([[1.0, 0.0]], np.float32) for _ in texts]

    def _patches(self, pixels_HWC: Any) -> Unit:
        step = len(pixels_HWC) // self.side
        colour_PC = pixels_HWC.reshape(self.side, step, self.side, step, 3).mean(axis=(1, 3)).reshape(-1, 3)
        far_P = np.linalg.norm(colour_PC - colour_PC.mean(axis=0), axis=1) / 500.0
        unit_PD: Unit = np.stack([far_P, np.sqrt(1 - far_P**2)], axis=1).astype(np.float32)
        return unit_PD


def without_places(rows: Pool, name: str) -> Pool:
    """The caption, which names both things and not where they are, in place of the raw text."""

    def captioned(sample: Sample) -> Sample:
        return replace(sample, texts=(replace(sample.texts[1], origin="alt"),))

    return Pool.from_samples((captioned(rows[row]) for row in range(len(rows))), name=f"captions/{name}")


def tested(cell: Cell) -> Pool:
    return without_places(clean_rows(cell, captioned=True, wrong=0.0, regions=True), "test")


def by_tokens(model: Any) -> TokenEmbedder:
    """The model itself, or a dual encoder by the tokens of its towers."""
    if isinstance(model, TokenEmbedder):
        return model
    assert isinstance(model, PairEmbedder)
    return LateEmbedder(model.model, model.preprocess, model.tokenizer, model.text_length, model.name)


def localised(model: TokenEmbedder, test: Pool) -> dict[str, float]:
    task = Localisation(draws=1)
    return {name: metric.value for name, metric in task.score(task.predict(model, test)).metrics.items()}
